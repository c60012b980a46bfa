/* What `checkpoint` and `process checkpoint` have in common: options, their fields of the request, exit codes, result. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import type { ErrorType } from '../core/errors.ts';
import type { CliErrorType } from './exit-codes.ts';
import { durationArgument, jsonOption, labelArgument, withoutUndefined } from './options.ts';
import { renderPairs } from './output.ts';
import { formatBytes, formatDuration } from './units.ts';
import type { FlagNames } from './validate.ts';

export interface CaptureFlags {
  readonly node?: string;
  readonly id?: string;
  readonly after?: CheckpointRequest['after'];
  readonly durability?: CheckpointRequest['durability'];
  readonly tcp?: CheckpointRequest['tcp'];
  readonly freezeBudget?: number;
  readonly holdBudget?: number;
  readonly label?: Readonly<Record<string, string>>;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export const CAPTURE_FLAGS: FlagNames = {
  node: '--node',
  checkpointId: '--id',
  after: '--after',
  durability: '--durability',
  tcp: '--tcp',
  freezeBudgetMs: '--freeze-budget',
  holdBudgetMs: '--hold-budget',
  labels: '--label',
};

/** @param what is captured: a word for the help of `--node` */
export function addCaptureOptions(command: Command, what: 'container' | 'process'): Command {
  return command
    .option('--node <name>', `node that runs the ${what} (default: KYBERNATE_NODE, or the host name)`)
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
    .option(
      '--freeze-budget <duration>',
      `longest time to stand still (default: 60s${what === 'container' ? ', less where the liveness probe allows less' : ''})`,
      durationArgument,
    )
    .option('--hold-budget <duration>', 'with --after hold: run on by itself after (default: 10m)', durationArgument)
    .option('--label <name=value>', 'kept with the checkpoint; any number of times', labelArgument);
}

/** The last ones of the help. */
export function addStartOptions(command: Command): Command {
  return command
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
}

/** Fields that nobody named stay away, so that the workflow's own defaults hold. */
export function captureFields(flags: CaptureFlags): Partial<CheckpointRequest> {
  return withoutUndefined({
    checkpointId: flags.id,
    after: flags.after,
    durability: flags.durability,
    tcp: flags.tcp,
    freezeBudgetMs: flags.freezeBudget,
    holdBudgetMs: flags.holdBudget,
    labels: flags.label,
  });
}

/** What a capture fails with, of whatever it is; more: of this one alone. */
export function captureErrors(
  ...more: ReadonlyArray<ErrorType | CliErrorType>
): ReadonlyArray<ErrorType | CliErrorType> {
  return [
    ...more,
    'NodeUnavailable',
    'Incompatible',
    'DumpFailed',
    'HookFailed',
    'FreezeBudgetExceeded',
    'CheckpointCorrupt',
    'StorageUnavailable',
    'StorageDenied',
    'KeyUnavailable',
    'DiskFull',
    'LockLost',
    'CompensationFailed',
    'Poisoned',
    'OperationTerminated',
    'TemporalUnreachable',
    'Cancelled',
  ];
}

export interface CapturedSubject {
  readonly kind: 'container' | 'process';
  readonly name: string;
  /** command that brings it back */
  readonly restore: string;
  readonly more?: ReadonlyArray<readonly [string, string | undefined]>;
}

export function renderCaptured(result: CheckpointResult, { kind, name, restore, more = [] }: CapturedSubject): string {
  const source = { running: 'running', held: 'held: it stands still until it is released', stopped: 'stopped' };
  const pairs = renderPairs([
    ['checkpoint', result.checkpointId],
    [kind, `${name} on ${result.node}`],
    ['source', `${source[result.source]}; it stood still for ${formatDuration(result.freezeMs)} to be captured`],
    ['durability', result.durability],
    ['size', `${formatBytes(result.bytes.total)}, ${formatBytes(result.bytes.stored)} sent to the store`],
    ['local copy', result.localPath],
    ['store', result.remote],
    ...more,
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
  return `${pairs}\n\nrestore it: ${restore} ${result.checkpointId}`;
}
