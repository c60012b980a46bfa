/* All commands, and the one place that turns what a command throws into an exit code. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { EXIT_OK, EXIT_USAGE, KybernateError } from '../core/errors.ts';
import type { Cli } from './cli.ts';
import { addCatCommand } from './commands/cat.ts';
import { addCheckpointCommand } from './commands/checkpoint.ts';
import { addCompletionCommand } from './commands/completion.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addDownCommand } from './commands/down.ts';
import { addExportCommand } from './commands/export.ts';
import { addGcCommand } from './commands/gc.ts';
import { addGpuCommand } from './commands/gpu.ts';
import { addImportCommand } from './commands/import.ts';
import { addInspectCommand } from './commands/inspect.ts';
import { addKeysCommand } from './commands/keys.ts';
import { addLsCommand } from './commands/ls.ts';
import { addPrefetchCommand } from './commands/prefetch.ts';
import { addPreflightCommand } from './commands/preflight.ts';
import { addPsCommand } from './commands/ps.ts';
import { addProcessCommand } from './commands/process.ts';
import { addRepairCommand } from './commands/repair.ts';
import { addRescueCommand } from './commands/rescue.ts';
import { addRestoreCommand } from './commands/restore.ts';
import { addRmCommand } from './commands/rm.ts';
import { addRuntimeCommand } from './commands/runtime.ts';
import { addSetupCommand } from './commands/setup.ts';
import { addTemporalCommand } from './commands/temporal.ts';
import { addTiersCommand } from './commands/tiers.ts';
import { addTransferCommand } from './commands/transfer.ts';
import { addUpCommand } from './commands/up.ts';
import {
  addGuardCommand,
  addOperatorCommand,
  addRunnerCommand,
  addSidecarCommand,
  addWorkerCommand,
} from './commands/worker.ts';
import { addVerifyCommand } from './commands/verify.ts';
import { addCancelCommand, addReleaseCommand, addWatchCommand } from './commands/watch.ts';
import { writeError } from './output.ts';

/**
 * The commands import what they need when they run: the help of the program must not wait for Temporal, S3 or zod.
 */
export function createProgram(cli: Cli): Command {
  const program = new Command('kybernate');
  program
    .description('Durable checkpoint and restore of running containers; every operation is a Temporal workflow.')
    .version(readVersion(), '-V, --version', 'print the version')
    .helpCommand(false)
    .showHelpAfterError(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => cli.streams.stdout.write(text),
      writeErr: (text) => cli.streams.stderr.write(text),
      // Errors of usage are printed by `run`, like all others.
      outputError: () => undefined,
    })
    .addHelpText('after', '\n`kybernate <command> --help` shows examples and exit codes. Errors: docs/errors.md.');
  program.commandsGroup('Operations:');
  addCheckpointCommand(program, cli);
  addRestoreCommand(program, cli);
  addPreflightCommand(program, cli);
  addPsCommand(program, cli);
  addWatchCommand(program, cli);
  addCancelCommand(program, cli);
  addReleaseCommand(program, cli);
  addGpuCommand(program, cli);
  addProcessCommand(program, cli);
  program.commandsGroup('Checkpoints:');
  addLsCommand(program, cli);
  addInspectCommand(program, cli);
  addCatCommand(program, cli);
  addVerifyCommand(program, cli);
  addRepairCommand(program, cli);
  addExportCommand(program, cli);
  addImportCommand(program, cli);
  addPrefetchCommand(program, cli);
  addTiersCommand(program, cli);
  addTransferCommand(program, cli);
  addRmCommand(program, cli);
  addGcCommand(program, cli);
  addKeysCommand(program, cli);
  program.commandsGroup('This machine:');
  addSetupCommand(program, cli);
  addRuntimeCommand(program, cli);
  addDoctorCommand(program, cli);
  addRescueCommand(program, cli);
  addUpCommand(program, cli);
  addDownCommand(program, cli);
  program.commandsGroup('Running Kybernate:');
  addWorkerCommand(program, cli);
  addSidecarCommand(program, cli);
  addOperatorCommand(program, cli);
  addTemporalCommand(program, cli);
  addRunnerCommand(program);
  addGuardCommand(program);
  program.commandsGroup('Other:');
  addCompletionCommand(program, cli);
  return program;
}

/**
 * Runs one command line; never throws.
 * @param args without the names of Node and of the program
 * @returns exit code, unless the command set its own
 */
export async function run(args: readonly string[], cli: Cli): Promise<number> {
  const json = args.includes('--json');
  const program = createProgram(cli);
  const command = commandOf(program, args);
  try {
    await program.parseAsync([...args], { from: 'user' });
    return EXIT_OK;
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      return writeError(cli.streams, error, json, command);
    }
    // Printed already: the help that was asked for (0), or that stands in for a missing command (1).
    if (error.exitCode === 0 || error.code === 'commander.help') {
      return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE;
    }
    const message = error.message
      .replace(/^error: /, '')
      .replace(/^command-argument value '(.*)' is invalid for argument '(.*)'\. /s, "<$2>: '$1' is none. ");
    const remedy = `see \`${['kybernate', command, '--help'].filter((word) => word !== '').join(' ')}\``;
    const wrong = new KybernateError('InvalidInput', message, { cause: error, details: { remedy } });
    return writeError(cli.streams, wrong, json, command);
  }
}

/** The words that name a command: `process checkpoint`; empty where there is no such command. */
function commandOf(program: Command, args: readonly string[]): string {
  const words: string[] = [];
  let found: Command | undefined = program;
  for (const word of args) {
    found = found.commands.find((command) => command.name() === word);
    if (found === undefined) {
      break;
    }
    words.push(word);
  }
  return words.join(' ');
}

/** Beside the sources in the repository, one directory further up in the built package. */
function readVersion(): string {
  for (const place of ['../package.json', '../../package.json']) {
    try {
      const manifest = JSON.parse(readFileSync(new URL(place, import.meta.url), 'utf8')) as { version?: unknown };
      return String(manifest.version);
    } catch (error) {
      // Not there: the other place has it.
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) {
        throw error;
      }
    }
  }
  return 'unknown';
}
