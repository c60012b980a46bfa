/* `kybernate preflight`: flags → PreflightRequest → workflow `preflight` → every reason, as a table. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { PreflightRequest, PreflightResult } from '../../core/contract/preflight.ts';
import { ERRORS } from '../../core/errors.ts';
import type { Finding } from '../../core/preflight.ts';
import type { Cli } from '../cli.ts';
import { CONTAINER_FLAGS, containerOf } from '../container-argument.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { GPU_FLAGS, gpuOptionsOf, type GpuFlags } from '../gpu-options.ts';
import {
  addHelpTexts,
  durationArgument,
  gpuPairArgument,
  jsonOption,
  livenessArgument,
  nameArgument,
  podArgument,
  withoutUndefined,
  type PodArgument,
} from '../options.ts';
import { createOutput, renderTable } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatDuration } from '../units.ts';
import { checkRequest, type FlagNames } from '../validate.ts';

export interface PreflightFlags extends Pick<GpuFlags, 'gpuAllowShared' | 'gpuAssumeSafe'> {
  readonly container?: string;
  readonly pod?: PodArgument;
  readonly docker?: string | boolean;
  readonly node?: string;
  readonly name?: string;
  readonly namespace?: string;
  readonly tcp?: PreflightRequest['tcp'];
  readonly networkNamespace?: string;
  readonly source?: PreflightRequest['source'];
  readonly gpu?: PreflightRequest['gpuMap'];
  readonly engine?: PreflightRequest['engine'];
  readonly after?: PreflightRequest['after'];
  readonly captureVolume?: readonly string[];
  readonly livenessProbe?: ReturnType<typeof livenessArgument>;
  readonly freezeBudget?: number;
  readonly holdBudget?: number;
  readonly workflowId?: string;
  readonly json?: boolean;
}

export const PREFLIGHT_FLAGS: FlagNames = {
  ...CONTAINER_FLAGS,
  ...GPU_FLAGS,
  node: '--node',
  checkpointId: '<checkpoint> or --container',
  'container.id': '--container',
  tcp: '--tcp',
  networkNamespace: '--network-namespace',
  gpuMap: '--gpu',
  'as.id': '--name',
  'as.namespace': '--namespace',
  'as.docker': '--docker',
  source: '--source',
  engine: '--engine',
  after: '--after',
  captureVolumes: '--capture-volume',
  livenessProbe: '--liveness-probe',
  freezeBudgetMs: '--freeze-budget',
  holdBudgetMs: '--hold-budget',
};

export function preflightRequest(
  checkpoint: string | undefined,
  flags: PreflightFlags,
  node: () => string,
): Record<string, unknown> {
  const { docker, pod, namespace } = flags;
  const named = typeof docker === 'string' ? docker : undefined;
  const ofContainer = flags.container !== undefined || pod !== undefined || named !== undefined;
  const source = withoutUndefined({ pod, docker: named, namespace });
  const as = withoutUndefined(
    docker === true ? { docker: flags.name ?? true, namespace } : { id: flags.name, namespace },
  );
  return withoutUndefined({
    checkpointId: checkpoint,
    node: flags.node ?? node(),
    container: ofContainer ? containerOf(flags.container, source, undefined) : undefined,
    as: ofContainer || Object.keys(as).length === 0 ? undefined : as,
    tcp: flags.tcp,
    networkNamespace: flags.networkNamespace,
    source: flags.source,
    gpuMap: flags.gpu,
    engine: flags.engine,
    after: flags.after,
    captureVolumes: flags.captureVolume,
    livenessProbe: flags.livenessProbe === 'none' ? undefined : flags.livenessProbe,
    freezeBudgetMs: flags.freezeBudget,
    holdBudgetMs: flags.holdBudget,
    gpu: gpuOptionsOf(flags, undefined),
  });
}

export function renderPreflightResult(result: PreflightResult): string {
  const subject = result.checkpointId ?? `${result.container.namespace}/${result.container.id}`;
  const what = result.checkpointId === undefined ? 'be checkpointed' : 'be restored';
  const errors = result.findings.filter(({ severity }) => severity === 'error').length;
  const verdict = result.fits
    ? `${subject} can ${what} on ${result.node}`
    : `${subject} cannot ${what} on ${result.node}: ${String(errors)} ${errors === 1 ? 'reason' : 'reasons'}`;
  return [
    `${verdict} (looked for ${formatDuration(result.checkMs)}, touched nothing)`,
    ...(result.findings.length === 0 ? [] : [renderFindings(result.findings)]),
  ].join('\n\n');
}

function renderFindings(findings: readonly Finding[]): string {
  const table = renderTable(findings, [
    { title: 'CHECK', value: ({ code }) => code },
    { title: 'SEVERITY', value: ({ severity }) => severity },
    { title: 'RECORDED', value: ({ recorded }) => shortened(recorded) },
    { title: 'HERE', value: ({ here }) => shortened(here) },
  ]);
  const lines = findings.map(({ code, message, remedy }) => `${code}: ${message}\n  ${remedy}`);
  return [table, lines.join('\n')].join('\n\n');
}

const MAX_CELL = 40;

function shortened(text = '-'): string {
  return text.length > MAX_CELL ? `${text.slice(0, MAX_CELL - 1)}…` : text;
}

export function addPreflightCommand(program: Command, cli: Cli): void {
  const command = program
    .command('preflight')
    .summary('would a checkpoint run on a node, can a container be checkpointed?')
    .description(
      'Compares what a checkpoint needs with a node, or looks whether a running container can be checkpointed there. Every ' +
        'reason is listed at once, with what to do about it. Nothing is touched, reserved or downloaded.',
    )
    .argument('[checkpoint]', 'checkpoint id, as `kybernate ls` shows it')
    .option('--container <id>', 'instead of a checkpoint: containerd id of a running container')
    .option('--pod <namespace/name/container>', 'name the container by its Kubernetes pod instead', podArgument)
    .option(
      '--docker [name]',
      'a running container of Docker; of a checkpoint, without a name: would Docker restore it there?',
    )
    .option('--node <name>', 'node that is looked at (default: KYBERNATE_NODE, or the host name)')
    .option('--namespace <name>', 'containerd namespace of the container, or of the one to be made')
    .option('--name <container id>', 'containerd id of the container to be made')
    .addOption(
      new Option('--tcp <policy>', 'TCP connections (default: keep for a container, close for a restore)').choices([
        'keep',
        'close',
      ]),
    )
    .option('--network-namespace <path>', 'the restore would join this network namespace (default: as captured)')
    .addOption(new Option('--source <where>', 'which copy to use (default: auto)').choices(['auto', 'local', 'store']))
    .option('--gpu <from=to>', 'UUIDs of a GPU at the checkpoint and of the one that takes its place', gpuPairArgument)
    .addOption(new Option('--engine <name>', 'of a checkpoint (default: runc)').choices(['runc', 'containerd']))
    .addOption(
      new Option('--after <what>', 'of a checkpoint: then the source (default: resume)').choices([
        'resume',
        'hold',
        'stop',
      ]),
    )
    .option(
      '--capture-volume <name>',
      'of a checkpoint: would take this volume of the pod along; any number of times',
      nameArgument,
    )
    .option(
      '--liveness-probe <json>',
      'of a checkpoint: the liveness probe of the container, as kubectl prints it; would it allow the freeze?',
      livenessArgument,
    )
    .option(
      '--freeze-budget <duration>',
      'of a checkpoint with a liveness probe: as it would be given',
      durationArgument,
    )
    .option(
      '--hold-budget <duration>',
      'of a checkpoint with a liveness probe, --after hold or stop (default: 10m)',
      durationArgument,
    )
    .option('--gpu-allow-shared', 'allow a GPU that processes outside of the container use')
    .option('--gpu-assume-safe', 'vouch that no CUDA IPC, peer access or NCCL over P2P is used where it cannot be seen')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate preflight nightly --node worker-4', 'would it run there?'],
      ['kybernate preflight nightly --node worker-4 --tcp keep --network-namespace /run/netns/app', 'with connections'],
      ['kybernate preflight web-1 --name web-copy --docker', 'would Docker restore it here, under that name?'],
      [
        `kybernate preflight --pod shop/cart-0/app --liveness-probe "$(kubectl -n shop get pod cart-0 -o jsonpath='{.spec.containers[?(@.name=="app")].livenessProbe}')"`,
        'would its liveness probe allow the freeze?',
      ],
      ['kybernate preflight --container redis --json', 'can it be checkpointed on this host?'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'ContainerNotFound',
      'ContainerNotRunning',
      'NodeUnavailable',
      'Incompatible',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
      'RuntimeUnavailable',
    ]),
  });
  command.action((checkpoint: string | undefined, flags: PreflightFlags) => runPreflight(cli, checkpoint, flags));
}

async function runPreflight(cli: Cli, checkpoint: string | undefined, flags: PreflightFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { preflightInput } = await import('../../core/contract/preflight.ts');
  const request = await checkRequest(
    preflightInput,
    preflightRequest(checkpoint, flags, () => cli.config().node),
    PREFLIGHT_FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.preflight(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `preflight of ${request.checkpointId ?? flags.container ?? 'a container'} on ${request.node}`,
      render: renderPreflightResult,
      exitCode: ({ fits }: PreflightResult) => (fits ? undefined : ERRORS.Incompatible.exitCode),
    },
  );
}
