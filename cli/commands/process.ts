/* `kybernate process`: processes of the host that no container holds. */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { addProcessAnalyzeCommand } from './process-analyze.ts';
import { addProcessCheckpointCommand } from './process-checkpoint.ts';
import { addProcessRestoreCommand } from './process-restore.ts';

export function addProcessCommand(program: Command, cli: Cli): void {
  const group = program
    .command('process')
    .summary('processes of the host: analyze, checkpoint, restore')
    .description(
      'A process of a node, with all below it. Its files are the node’s: they are not in the checkpoint, and must be there, ' +
        'as they were, for a restore. `analyze`, and `restore` of a directory or with --attach, act on this machine ' +
        'directly; the rest is a workflow.',
    )
    .helpCommand(false);
  addProcessAnalyzeCommand(group, cli);
  addProcessCheckpointCommand(group, cli);
  addProcessRestoreCommand(group, cli);
}
