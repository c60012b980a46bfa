/* `kybernate watch`, `cancel` and `release`: an operation that somebody started, by its workflow id. */
import type { Command } from 'commander';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RehearseResult } from '../../core/contract/gpu.ts';
import type { RestoreResult } from '../../core/contract/restore.ts';
import type { Cli } from '../cli.ts';
import { CliError, exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import type { Operation } from '../operation.ts';
import { runOperation } from '../run-operation.ts';
import { renderCheckpointResult } from './checkpoint.ts';
import { renderRehearseResult } from './gpu-rehearse.ts';
import { renderRestoreResult } from './restore.ts';

interface WatchFlags {
  readonly runId?: string;
  readonly json?: boolean;
}

export function addWatchCommand(program: Command, cli: Cli): void {
  const command = program
    .command('watch')
    .summary('follow an operation to its end')
    .description('Shows the progress of a running operation, then its result. Ctrl-C asks: detach or cancel.')
    .argument('<workflow id>', 'as printed when the operation was started, or in the Web UI')
    .option('--run-id <id>', 'this run, when the workflow id was used again')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate watch checkpoint:redis:1', 'follow a checkpoint'],
      ['kybernate watch checkpoint:redis:1 --json', 'wait for it, then print its result as JSON'],
    ],
    exitCodes: exitCodesHelp(['OperationNotFound', 'OperationTerminated', 'TemporalUnreachable', 'Cancelled']).concat(
      '\n  else the exit code of the error that the operation failed with, see docs/errors.md',
    ),
  });
  command.action(async (workflowId: string, flags: WatchFlags) => {
    const output = createOutput(cli.streams, flags);
    await runOperation(cli, (operations) => operations.find(workflowId, flags.runId), {
      output,
      title: workflowId,
      render: renderAnyResult,
    });
  });
}

export function addCancelCommand(program: Command, cli: Cli): void {
  const command = program
    .command('cancel')
    .summary('cancel an operation; what it made is undone')
    .description(
      'Asks an operation to stop at its next safe point and to undo what it made. The workload of a checkpoint runs on; ' +
        'a checkpoint that is committed on its node stays there.',
    );
  addHelpTexts(command, {
    examples: [['kybernate cancel checkpoint:redis:1', 'stop a checkpoint; `kybernate watch` shows its end']],
    exitCodes: exitCodesHelp(['OperationNotFound', 'TemporalUnreachable']),
  });
  addRequest(command, cli, async (operation) => {
    await operation.cancel();
    return 'cancellation';
  });
}

export function addReleaseCommand(program: Command, cli: Cli): void {
  const command = program
    .command('release')
    .summary('let a held container run on')
    .description('Ends the hold of a checkpoint that was made with --after hold: its container runs on now.');
  addHelpTexts(command, {
    examples: [['kybernate release checkpoint:redis:1', 'before the hold budget is over']],
    exitCodes: exitCodesHelp(['OperationNotFound', 'TemporalUnreachable']),
  });
  addRequest(command, cli, async (operation) => {
    await operation.release();
    return 'release';
  });
}

/** Sends something to an operation without waiting for what it does about it. */
function addRequest(command: Command, cli: Cli, send: (operation: Operation<unknown>) => Promise<string>): void {
  command
    .argument('<workflow id>', 'as printed when the operation was started, or in the Web UI')
    .option('--run-id <id>', 'this run, when the workflow id was used again')
    .addOption(jsonOption())
    .action(async (workflowId: string, flags: WatchFlags) => {
      const output = createOutput(cli.streams, flags);
      const operations = await cli.connect();
      try {
        const operation = await operations.find(workflowId, flags.runId);
        const requested = await send(operation).catch((error: unknown) => {
          throw hasEnded(error) ? endedError(workflowId) : error;
        });
        output.result({ workflowId, requested }, () =>
          [`${requested} of ${workflowId} requested`, `  watch it: kybernate watch ${workflowId}`].join('\n'),
        );
      } finally {
        await operations.close();
      }
    });
}

/** It was found a moment ago: what Temporal does not find now is a run that takes requests. Told by name, as in reportOf. */
function hasEnded(error: unknown): boolean {
  return error instanceof Error && error.name === 'WorkflowNotFoundError';
}

function endedError(workflowId: string): CliError {
  return new CliError(
    'OperationNotFound',
    `operation ${workflowId} has ended already: there is nothing left to ask it`,
    {
      details: { workflowId, remedy: `see how it ended: kybernate watch ${workflowId}` },
    },
  );
}

/** The result of a workflow whose type is not known here: recognised by its fields. */
export function renderAnyResult(result: unknown): string {
  if (typeof result === 'object' && result !== null) {
    if ('restoreMs' in result) {
      return renderRestoreResult(result as RestoreResult);
    }
    if ('freezeMs' in result) {
      return renderCheckpointResult(result as CheckpointResult);
    }
    if ('vramBytes' in result) {
      return renderRehearseResult(result as RehearseResult);
    }
  }
  return JSON.stringify(result, null, 2) ?? 'done';
}
