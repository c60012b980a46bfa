/* `kybernate checkpoint`: flags → CheckpointRequest → workflow `checkpoint` → progress → result. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { CheckpointRequest, CheckpointResult } from '../../core/contract/checkpoint.ts';
import {
  addCaptureOptions,
  addStartOptions,
  CAPTURE_FLAGS,
  captureErrors,
  captureFields,
  type CaptureFlags,
  renderCaptured,
} from '../capture-options.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { CONTAINER_FLAGS, containerOf, containerText } from '../container-argument.ts';
import type { ContainerFlags } from '../container-argument.ts';
import { GPU_FLAGS, addGpuOptions, gpuOptionsOf } from '../gpu-options.ts';
import type { GpuFlags } from '../gpu-options.ts';
import {
  addHelpTexts,
  durationArgument,
  livenessArgument,
  nameArgument,
  podArgument,
  programArgument,
  withoutUndefined,
} from '../options.ts';
import { createOutput } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration } from '../units.ts';
import { checkRequest, readRequest } from '../validate.ts';
import type { FlagNames } from '../validate.ts';

export interface CheckpointFlags extends CaptureFlags, ContainerFlags, GpuFlags {
  readonly engine?: CheckpointRequest['engine'];
  readonly livenessProbe?: ReturnType<typeof livenessArgument>;
  readonly captureVolume?: readonly string[];
  readonly health?: readonly string[];
  readonly healthTimeout?: number;
  readonly input?: string;
}

export const CHECKPOINT_FLAGS: FlagNames = {
  ...CAPTURE_FLAGS,
  ...CONTAINER_FLAGS,
  process: '`kybernate process checkpoint`',
  ...GPU_FLAGS,
  engine: '--engine',
  livenessProbe: '--liveness-probe',
  captureVolumes: '--capture-volume',
  health: '--health',
  'health.command': '--health',
  'health.timeoutMs': '--health-timeout',
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
    ...captureFields(flags),
    engine: flags.engine,
    livenessProbe: flags.livenessProbe === 'none' ? undefined : flags.livenessProbe,
    captureVolumes: flags.captureVolume,
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

export function renderCheckpointResult(result: CheckpointResult, docker?: string): string {
  const { namespace, id } = result.container;
  const name = docker === undefined ? `${namespace}/${id}` : `docker/${docker} (${id.slice(0, 12)})`;
  const more = [['GPU', gpuText(result)]] as const;
  return renderCaptured(result, { kind: 'container', name, restore: 'kybernate restore', more });
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
    .option('--namespace <name>', 'containerd namespace (default: "default", or "k8s.io" with --pod)');
  addCaptureOptions(command, 'container')
    .addOption(new Option('--engine <name>', 'who calls CRIU (default: runc)').choices(['runc', 'containerd']))
    .option(
      '--liveness-probe <json>',
      'of a container in a pod, as kubectl prints it: budgets that are longer than it allows are refused',
      livenessArgument,
    )
    .option(
      '--capture-volume <name>',
      "take along this emptyDir of its pod, or /dev/shm; any number of times, - for none (default: as the pod's annotation says)",
      nameArgument,
    )
    .option(
      '--health <program>',
      'run in the container when it was let go: exit code 0 says that it is well; words, or a JSON array',
      programArgument,
    )
    .option('--health-timeout <duration>', 'try the health program until then (default: 10s)', durationArgument);
  addStartOptions(
    addGpuOptions(command).option(
      '--input <file>',
      'read the whole request as JSON from a file, or - for stdin; flags override it',
    ),
  );
  addHelpTexts(command, {
    examples: [
      ['kybernate checkpoint redis', 'checkpoint the container "redis" of this host and wait until it is stored'],
      ['kybernate checkpoint --pod shop/cart-0/app --node worker-3', 'a container of a Kubernetes pod'],
      [
        `kybernate checkpoint --pod shop/cart-0/app --liveness-probe "$(kubectl -n shop get pod cart-0 -o jsonpath='{.spec.containers[?(@.name=="app")].livenessProbe}')"`,
        'never freeze it for longer than its liveness probe allows',
      ],
      [
        'kybernate checkpoint --pod shop/cart-0/app --capture-volume cache --capture-volume /dev/shm',
        'take its emptyDir "cache" along, and the shared memory',
      ],
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
    exitCodes: exitCodesHelp(
      captureErrors(
        'ContainerNotFound',
        'ContainerNotRunning',
        'GpuUnsupported',
        'GpuBusy',
        'GpuOutOfMemory',
        'RuntimeUnavailable',
      ),
    ),
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
      render: (result) => renderCheckpointResult(result, request.container?.docker),
    },
  );
}
