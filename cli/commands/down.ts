/* `kybernate down`: stops what `kybernate up` started. */
import type { Command } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';

interface DownFlags {
  readonly keep?: boolean;
  readonly json?: boolean;
}

export function addDownCommand(program: Command, cli: Cli): void {
  const command = program
    .command('down')
    .summary('stop the embedded dev environment')
    .description(
      'Stops exactly what `kybernate up` started, the containers of its containerd included, and leaves no process, ' +
        'mount, socket or cgroup. Histories and checkpoints of the environment are removed unless --keep is given. Needs root.',
    )
    .option('--keep', "keep Temporal's histories, the checkpoints and the store for the next `kybernate up`")
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate down', 'stop and remove everything'],
      ['kybernate down --keep', 'stop everything, keep the data'],
    ],
    exitCodes: exitCodesHelp(['Incompatible']),
  });
  command.action((flags: DownFlags) => runDown(flags, cli));
}

async function runDown(flags: DownFlags, cli: Cli): Promise<void> {
  // Another user's directory is another one: it would be told that nothing was running.
  needsRoot(cli, 'down');
  const { down } = await import('../dev/down.ts');
  const result = await down({ env: cli.env, keepData: flags.keep === true });
  if (result.stillMounted.length > 0) {
    const mounts = result.stillMounted.join(', ');
    throw new KybernateError('Internal', `everything is stopped, but these mounts could not be removed: ${mounts}`, {
      details: { ...result },
    });
  }
  createOutput(cli.streams, flags).result(result, () => {
    const more = result.ended === 0 ? [] : [`${result.ended} more`];
    return result.stopped.length + result.ended === 0
      ? 'nothing was running'
      : `stopped ${[...result.stopped, ...more].join(', ')}`;
  });
}
