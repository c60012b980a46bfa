/* `kybernate setup`: brings the machine to the point where a node, the demo or the tests run. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { PURPOSES, type Purpose } from '../setup/step.ts';

interface SetupFlags {
  readonly for: readonly Purpose[];
  readonly json?: boolean;
}

function purposesArgument(text: string): Purpose[] {
  return text.split(',').map((word) => {
    const purpose = PURPOSES.find((known) => known === word);
    if (purpose === undefined) {
      throw new InvalidArgumentError(`Give one or more of ${PURPOSES.join(', ')}.`);
    }
    return purpose;
  });
}

export function addSetupCommand(program: Command, cli: Cli): void {
  const command = program
    .command('setup')
    .summary('install what is needed and missing')
    .description(
      'Checks everything that Kybernate needs on this machine and installs what is missing: Debian packages by apt-get, ' +
        'programs into the cache directory (KYBERNATE_CACHE, default ~/.cache/kybernate). A program on PATH in a ' +
        'sufficient version is used instead. A second run changes nothing.',
    )
    .addOption(
      new Option('--for <purposes>', `comma-separated: ${PURPOSES.join(', ')}`)
        .argParser(purposesArgument)
        .default(['run'] as const, 'run'),
    )
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate setup', 'what a node needs'],
      ['kybernate setup --for demo,s3', 'what `make demo STORE=s3` needs'],
      ['kybernate setup --for test', 'what `make test` needs'],
      ['kybernate setup --for test,kubernetes', 'what `make e2e-kubernetes` needs: builds Kubernetes, ten minutes'],
    ],
    exitCodes: exitCodesHelp(['Incompatible']),
  });
  command.action((flags: SetupFlags) => runSetupCommand(flags, cli));
}

async function runSetupCommand(flags: SetupFlags, cli: Cli): Promise<void> {
  const [{ setupSteps }, { runSetup }] = await Promise.all([
    import('../setup/steps.ts'),
    import('../setup/run-setup.ts'),
  ]);
  const output = createOutput(cli.streams, flags);
  const begin = performance.now();
  const silent = { write: () => undefined };
  const steps = await runSetup(setupSteps(flags.for), cli.env, output.json ? silent : cli.streams.stderr);
  const seconds = Math.round((performance.now() - begin) / 100) / 10;
  const installed = steps.filter((step) => step.done === 'installed').length;
  output.result({ steps, installed, seconds }, () =>
    installed === 0 ? `set-up: everything was there (${seconds} s)` : `set-up: ${installed} installed in ${seconds} s`,
  );
}
