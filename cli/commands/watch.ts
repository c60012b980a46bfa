/* `kybernate watch` and `kybernate cancel`: an operation that somebody started, by its workflow id. */
import type { Command } from 'commander';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RestoreResult } from '../../core/contract/restore.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { renderCheckpointResult } from './checkpoint.ts';
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
      ['kybernate watch checkpoint:default/redis:1', 'follow a checkpoint'],
      ['kybernate watch checkpoint:default/redis:1 --json', 'wait for it, then print its result as JSON'],
    ],
    exitCodes: exitCodesHelp(['OperationNotFound', 'OperationTerminated', 'TemporalUnreachable', 'Cancelled']).concat(
      '\n  else the exit code of the error that the operation failed with, see docs/errors.md',
    ),
  });
  command.action(async (workflowId: string, flags: WatchFlags) => {
    const output = createOutput(cli.streams, flags);
    const operations = await cli.connect();
    try {
      const operation = await operations.find(workflowId, flags.runId);
      await runOperation(cli, operations, operation, { output, title: workflowId, render: renderAnyResult });
    } finally {
      await operations.close();
    }
  });
}

export function addCancelCommand(program: Command, cli: Cli): void {
  const command = program
    .command('cancel')
    .summary('cancel an operation; what it made is undone')
    .description(
      'Asks an operation to stop at its next safe point and to undo what it made. The workload of a checkpoint runs on.',
    )
    .argument('<workflow id>', 'as printed when the operation was started, or in the Web UI')
    .option('--run-id <id>', 'this run, when the workflow id was used again')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [['kybernate cancel checkpoint:default/redis:1', 'stop a checkpoint; `kybernate watch` shows its end']],
    exitCodes: exitCodesHelp(['OperationNotFound', 'TemporalUnreachable']),
  });
  command.action(async (workflowId: string, flags: WatchFlags) => {
    const output = createOutput(cli.streams, flags);
    const operations = await cli.connect();
    try {
      const operation = await operations.find(workflowId, flags.runId);
      await operation.cancel();
      output.result({ workflowId, cancelRequested: true }, () =>
        [`cancellation of ${workflowId} requested`, `  watch it: kybernate watch ${workflowId}`].join('\n'),
      );
    } finally {
      await operations.close();
    }
  });
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
  }
  return JSON.stringify(result, null, 2) ?? 'done';
}
