/* `kybernate checkpoint`: flags → CheckpointRequest → workflow `checkpoint` → progress → result. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { CheckpointRequest, CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { CONTAINER_FLAGS, containerOf, containerText } from '../container-argument.ts';
import type { ContainerFlags } from '../container-argument.ts';
import { GPU_FLAGS, addGpuOptions, gpuOptionsOf } from '../gpu-options.ts';
import type { GpuFlags } from '../gpu-options.ts';
import {
  addHelpTexts,
  durationArgument,
  jsonOption,
  labelArgument,
  podArgument,
  programArgument,
  withoutUndefined,
} from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration } from '../units.ts';
import { checkRequest, readRequest } from '../validate.ts';
import type { FlagNames } from '../validate.ts';

export interface CheckpointFlags extends ContainerFlags, GpuFlags {
  readonly node?: string;
  readonly id?: string;
  readonly after?: CheckpointRequest['after'];
  readonly durability?: CheckpointRequest['durability'];
  readonly engine?: CheckpointRequest['engine'];
  readonly tcp?: CheckpointRequest['tcp'];
  readonly freezeBudget?: number;
  readonly holdBudget?: number;
  readonly health?: readonly string[];
  readonly healthTimeout?: number;
  readonly label?: Readonly<Record<string, string>>;
  readonly input?: string;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export const CHECKPOINT_FLAGS: FlagNames = {
  node: '--node',
  ...CONTAINER_FLAGS,
  process: '`kybernate process checkpoint`',
  ...GPU_FLAGS,
  checkpointId: '--id',
  after: '--after',
  durability: '--durability',
  engine: '--engine',
  tcp: '--tcp',
  freezeBudgetMs: '--freeze-budget',
  holdBudgetMs: '--hold-budget',
  health: '--health',
  'health.command': '--health',
  'health.timeoutMs': '--health-timeout',
  labels: '--label',
};

/**
 * A flag overrides the same field of the input file; labels are put together. Fields that nobody named stay away, so
 * that the workflow's own defaults hold.
 * @param node used when neither flag nor file names one
 */
export function checkpointRequest(
  container: string | undefined,
  flags: CheckpointFlags,
  base: Readonly<Record<string, unknown>>,
  node: () => string,
): Record<string, unknown> {
  const given = withoutUndefined({
    checkpointId: flags.id,
    after: flags.after,
    durability: flags.durability,
    engine: flags.engine,
    tcp: flags.tcp,
    freezeBudgetMs: flags.freezeBudget,
    holdBudgetMs: flags.holdBudget,
    gpu: gpuOptionsOf(flags, base['gpu']),
    health: healthOf(flags, base['health']),
    labels: flags.label === undefined ? undefined : { ...(base['labels'] as object | undefined), ...flags.label },
  });
  return {
    ...base,
    ...given,
    node: flags.node ?? base['node'] ?? node(),
    container: containerOf(container, flags, base['container']),
  };
}

function healthOf({ health, healthTimeout }: CheckpointFlags, base: unknown): object | undefined {
  const given = withoutUndefined({ command: health, timeoutMs: healthTimeout });
  return Object.keys(given).length === 0 ? undefined : { ...(base as object | undefined), ...given };
}

export function renderCheckpointResult(result: CheckpointResult): string {
  const source = { running: 'running', held: 'held: frozen until it is released', stopped: 'stopped' }[result.source];
  const pairs = renderPairs([
    ['checkpoint', result.checkpointId],
    ['container', `${result.container.namespace}/${result.container.id} on ${result.node}`],
    ['source', `${source}; it stood still for ${formatDuration(result.freezeMs)} to be captured`],
    ['durability', result.durability],
    ['size', `${formatBytes(result.bytes.total)}, ${formatBytes(result.bytes.stored)} sent to the store`],
    ['local copy', result.localPath],
    ['store', result.remote],
    ['GPU', gpuText(result)],
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
  return `${pairs}\n\nrestore it: kybernate restore ${result.checkpointId}`;
}

function gpuText({ gpuProcesses, vramBytes, phases }: CheckpointResult): string | undefined {
  if (gpuProcesses === 0) {
    return undefined;
  }
  const pause = phases.gpuPauseMs === undefined ? '' : `; out of use for ${formatDuration(phases.gpuPauseMs)}`;
  return `${gpuProcesses === 1 ? '1 process' : `${String(gpuProcesses)} processes`}, ${formatBytes(vramBytes)} of VRAM${pause}`;
}

export function addCheckpointCommand(program: Command, cli: Cli): void {
  const command = program
    .command('checkpoint')
    .summary('capture a running container, its memory, files and sockets')
    .description(
      'Captures a running container on its node and stores the checkpoint. The container runs on as soon as it is ' +
        'captured, unless --after says otherwise; whatever fails, it runs on.',
    )
    .argument('[container]', 'containerd id of the container')
    .option('--pod <namespace/name/container>', 'name the container by its Kubernetes pod instead', podArgument)
    .option('--docker <name>', 'name the container as Docker does instead: its name or id')
    .option('--node <name>', 'node that runs the container (default: KYBERNATE_NODE, or the host name)')
    .option('--namespace <name>', 'containerd namespace (default: "default", or "k8s.io" with --pod)')
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
    .addOption(new Option('--engine <name>', 'who calls CRIU (default: runc)').choices(['runc', 'containerd']))
    .addOption(new Option('--tcp <policy>', 'established TCP connections (default: keep)').choices(['keep', 'close']))
    .option('--freeze-budget <duration>', 'longest time to stand still (default: 60s)', durationArgument)
    .option('--hold-budget <duration>', 'with --after hold: run on by itself after (default: 10m)', durationArgument)
    .option(
      '--health <program>',
      'run in the container when it was let go: exit code 0 says that it is well; words, or a JSON array',
      programArgument,
    )
    .option('--health-timeout <duration>', 'try the health program until then (default: 10s)', durationArgument)
    .option('--label <name=value>', 'kept with the checkpoint; any number of times', labelArgument);
  addGpuOptions(command)
    .option('--input <file>', 'read the whole request as JSON from a file, or - for stdin; flags override it')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate checkpoint redis', 'checkpoint the container "redis" of this host and wait until it is stored'],
      ['kybernate checkpoint --pod shop/cart-0/app --node worker-3', 'a container of a Kubernetes pod'],
      ['kybernate checkpoint --docker web', 'a container of the Docker daemon of this host'],
      [
        'kybernate checkpoint redis --after stop --durability verified --json',
        'end the source once every byte is read back',
      ],
      [
        `kybernate checkpoint train --freeze-budget 5m --quiesce 'python3 /app/quiesce.py'`,
        'a container with CUDA processes, which first frees what it does not need',
      ],
      [
        `kybernate checkpoint redis --health 'redis-cli ping' --freeze-budget 2s`,
        'ask the workload itself whether it is well afterwards',
      ],
      ['kybernate checkpoint --input request.json --freeze-budget 500ms', 'request from a file, one field overridden'],
    ],
    exitCodes: exitCodesHelp([
      'ContainerNotFound',
      'ContainerNotRunning',
      'NodeUnavailable',
      'Incompatible',
      'GpuUnsupported',
      'GpuBusy',
      'GpuOutOfMemory',
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
      'RuntimeUnavailable',
    ]),
  });
  command.action((container: string | undefined, flags: CheckpointFlags) => runCheckpoint(cli, container, flags));
}

async function runCheckpoint(cli: Cli, container: string | undefined, flags: CheckpointFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { checkpointInput } = await import('../../core/contract/checkpoint.ts');
  const base = await readRequest(flags.input, cli.terminal);
  const request = await checkRequest(
    checkpointInput,
    checkpointRequest(container, flags, base, () => cli.config().node),
    CHECKPOINT_FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.checkpoint(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `checkpoint of ${request.container === undefined ? `process ${request.process?.pid}` : containerText(request.container)} on ${request.node}`,
      detach: flags.detach,
      render: renderCheckpointResult,
    },
  );
}
