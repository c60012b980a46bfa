/* `kybernate process checkpoint`: flags → CheckpointRequest with a process → workflow `checkpoint`. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import {
  addHelpTexts,
  countArgument,
  durationArgument,
  jsonOption,
  labelArgument,
  withoutUndefined,
} from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration } from '../units.ts';
import { checkRequest } from '../validate.ts';
import { CHECKPOINT_FLAGS, type CheckpointFlags } from './checkpoint.ts';

interface ProcessCheckpointFlags extends Omit<CheckpointFlags, 'engine' | 'health' | 'input'> {
  readonly startTime?: number;
}

/** @param group the command `process` */
export function addProcessCheckpointCommand(group: Command, cli: Cli): void {
  const command = group
    .command('checkpoint')
    .summary('capture a running process with all below it')
    .description(
      'Captures a process of a node and all below it, and stores the checkpoint. It runs on as soon as it is captured, ' +
        'unless --after says otherwise; whatever fails, it runs on. What cannot be captured is refused before anything ' +
        'is touched. Files are not captured: a restore needs those that were open as they were.',
    )
    .argument('<pid>', 'root of the tree, as the node sees it', countArgument)
    .option(
      '--start-time <ticks>',
      'refuse another process that has the pid by now (`process analyze` tells it)',
      countArgument,
    )
    .option('--node <name>', 'node of the process (default: KYBERNATE_NODE, or the host name)')
    .option('--id <checkpoint id>', 'name of the checkpoint (default: made from the time)')
    .addOption(
      new Option('--after <what>', 'what becomes of the source (default: resume)').choices(['resume', 'hold', 'stop']),
    )
    .addOption(
      new Option('--durability <level>', 'how far to come before it counts as done (default: remote)').choices([
        'local',
        'remote',
        'verified',
      ]),
    )
    .addOption(new Option('--tcp <policy>', 'established TCP connections (default: keep)').choices(['keep', 'close']))
    .option('--freeze-budget <duration>', 'longest time to stand still (default: 60s)', durationArgument)
    .option('--hold-budget <duration>', 'with --after hold: run on by itself after (default: 10m)', durationArgument)
    .option('--label <name=value>', 'kept with the checkpoint; any number of times', labelArgument)
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate process checkpoint 4711', 'capture it, let it run on, store the checkpoint'],
      [
        'kybernate process checkpoint 4711 --after stop --durability local',
        'end it when the checkpoint is on this disk',
      ],
      ['kybernate process checkpoint $(pidof redis-server) --freeze-budget 1s --json', 'from a script'],
    ],
    exitCodes: exitCodesHelp([
      'ProcessNotFound',
      'NodeUnavailable',
      'Incompatible',
      'DumpFailed',
      'FreezeBudgetExceeded',
      'StorageUnavailable',
      'StorageDenied',
      'DiskFull',
      'LockLost',
      'CompensationFailed',
      'Poisoned',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((pid: number, flags: ProcessCheckpointFlags) => runProcessCheckpoint(cli, pid, flags));
}

const FLAGS = {
  ...CHECKPOINT_FLAGS,
  process: '<pid>',
  'process.pid': '<pid>',
  'process.startTime': '--start-time',
  container: '<pid>',
};

async function runProcessCheckpoint(cli: Cli, pid: number, flags: ProcessCheckpointFlags): Promise<void> {
  const { checkpointInput } = await import('../../core/contract/checkpoint.ts');
  const request = await checkRequest(
    checkpointInput,
    withoutUndefined({
      node: flags.node ?? cli.config().node,
      process: withoutUndefined({ pid, startTime: flags.startTime }),
      checkpointId: flags.id,
      after: flags.after,
      durability: flags.durability,
      tcp: flags.tcp,
      freezeBudgetMs: flags.freezeBudget,
      holdBudgetMs: flags.holdBudget,
      labels: flags.label,
    }),
    FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.checkpoint(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output: createOutput(cli.streams, flags),
      title: `checkpoint of process ${pid} on ${request.node}`,
      detach: flags.detach,
      render: (result) => renderProcessCheckpoint(pid, result),
    },
  );
}

function renderProcessCheckpoint(pid: number, result: CheckpointResult): string {
  const source = { running: 'running', held: 'held: it stands still until it is released', stopped: 'stopped' };
  const pairs = renderPairs([
    ['checkpoint', result.checkpointId],
    ['process', `${pid} on ${result.node}`],
    ['source', `${source[result.source]}; it stood still for ${formatDuration(result.freezeMs)} to be captured`],
    ['durability', result.durability],
    ['size', `${formatBytes(result.bytes.total)}, ${formatBytes(result.bytes.stored)} sent to the store`],
    ['local copy', result.localPath],
    ['store', result.remote],
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
  return `${pairs}\n\nrestore it: kybernate process restore ${result.checkpointId}`;
}
