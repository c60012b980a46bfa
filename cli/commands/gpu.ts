/* `kybernate gpu`: what has to do with GPUs and with no single checkpoint. */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { addGpuListCommand, addGpuStatusCommand } from './gpu-list.ts';
import { addGpuRehearseCommand } from './gpu-rehearse.ts';
import { addGpuTestCommand } from './gpu-test.ts';

export function addGpuCommand(program: Command, cli: Cli): void {
  const group = program
    .command('gpu')
    .summary('GPUs: list, status, test, and rehearse a checkpoint')
    .description(
      'What has to do with GPUs and with no single checkpoint. `list`, `status` and `test` act on this machine directly; `rehearse` is a workflow.',
    )
    .helpCommand(false);
  addGpuListCommand(group, cli);
  addGpuStatusCommand(group, cli);
  addGpuTestCommand(group, cli);
  addGpuRehearseCommand(group, cli);
}
