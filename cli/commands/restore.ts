/* `kybernate restore`: flags → RestoreRequest → workflow `restore` → progress → result. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { RungReport } from '../../core/contract/ladder.ts';
import type { RestoreRequest, RestoreResult } from '../../core/contract/restore.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, durationArgument, gpuPairArgument, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration } from '../units.ts';
import { checkRequest, readRequest } from '../validate.ts';
import type { FlagNames } from '../validate.ts';

export interface RestoreFlags {
  readonly path?: string;
  readonly unverified?: boolean;
  readonly node?: string;
  readonly name?: string;
  readonly docker?: boolean;
  readonly namespace?: string;
  readonly tcp?: RestoreRequest['tcp'];
  readonly networkNamespace?: string;
  readonly logFile?: string;
  readonly source?: RestoreRequest['source'];
  readonly onFailure?: RestoreRequest['onFailure'];
  readonly ladder?: readonly string[];
  readonly peer?: readonly string[];
  readonly otherNode?: readonly string[];
  readonly restoreBudget?: number;
  readonly gpu?: RestoreRequest['gpuMap'];
  readonly input?: string;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export const RESTORE_FLAGS: FlagNames = {
  node: '--node',
  checkpointId: '<checkpoint>',
  path: '--path',
  unverified: '--unverified',
  'container.id': '--name',
  'container.namespace': '--namespace',
  'container.docker': '--docker',
  tcp: '--tcp',
  networkNamespace: '--network-namespace',
  stdio: '--log-file',
  source: '--source',
  onFailure: '--on-failure',
  ladder: '--ladder',
  peers: '--peer',
  otherNodes: '--other-node',
  restoreBudgetMs: '--restore-budget',
  gpuMap: '--gpu',
};

/** A flag overrides the same field of the input file; `node` is used when neither names one. */
export function restoreRequest(
  checkpoint: string | undefined,
  flags: RestoreFlags,
  base: Readonly<Record<string, unknown>>,
  node: () => string,
): Record<string, unknown> {
  const named = (base['container'] ?? {}) as { id?: string; namespace?: string; docker?: string | true };
  const container = withoutUndefined(
    flags.docker === true || named.docker !== undefined
      ? { ...named, docker: flags.name ?? named.docker ?? true, namespace: flags.namespace ?? named.namespace }
      : { ...named, id: flags.name ?? named.id, namespace: flags.namespace ?? named.namespace },
  );
  return {
    ...base,
    ...withoutUndefined({
      checkpointId: checkpoint,
      path: flags.path,
      unverified: flags.unverified,
      container: Object.keys(container).length === 0 ? undefined : container,
      tcp: flags.tcp,
      networkNamespace: flags.networkNamespace,
      stdio: flags.logFile === undefined ? undefined : { kind: 'log', path: flags.logFile },
      source: flags.source,
      onFailure: flags.onFailure,
      ladder: flags.ladder,
      peers: flags.peer,
      otherNodes: flags.otherNode,
      restoreBudgetMs: flags.restoreBudget,
      gpuMap: flags.gpu,
    }),
    node: flags.node ?? base['node'] ?? node(),
  };
}

const FROM_TEXT: Readonly<Record<RestoreResult['from'], string>> = {
  local: 'the copy on the node',
  store: 'the store',
  path: 'the given path',
};

export function renderRestoreResult(result: RestoreResult): string {
  return renderPairs([
    ['container', `${containerOf(result)} on ${result.node}`],
    ['how', howText(result)],
    ['tried', result.rungs.length < 2 ? undefined : result.rungs.map(rungText).join('\n')],
    [
      'from',
      `${FROM_TEXT[result.from]}${result.fetchedBytes > 0 ? `, ${formatBytes(result.fetchedBytes)} fetched` : ''}`,
    ],
    ['restore time', formatDuration(result.restoreMs)],
    ['first process', `host pid ${String(result.initHostPid)}`],
    ['GPU', gpuText(result)],
    ['GPU map', result.gpu?.map.map(pairText).join('\n')],
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
}

function containerOf({ container, docker }: RestoreResult): string {
  return docker === undefined
    ? `${container.namespace}/${container.id}`
    : `${docker.name} (${docker.id.slice(0, 12)}) of Docker`;
}

function howText({ how, rungs }: RestoreResult): string {
  if (how === 'restored') {
    return 'restored';
  }
  return rungs.at(-1)?.rung === 'cold-start'
    ? 'cold-started: nothing else helped, and --ladder allowed it'
    : 'cold-started: CRIU refused and --on-failure said so';
}

function rungText({ rung, node, checkpointId, outcome, type, reason }: RungReport): string {
  const which = checkpointId === undefined || rung !== 'older-checkpoint' ? '' : ` ${checkpointId}`;
  const why = reason === undefined ? '' : `: ${reason}`;
  return `${rung}${which} on ${node}: ${type ?? outcome}${why}`;
}

function gpuText({ gpu, gpuProcesses }: RestoreResult): string | undefined {
  if (gpu === undefined) {
    return gpuProcesses === 0 ? undefined : processesText(gpuProcesses);
  }
  return `${processesText(gpu.processes)}, ${formatBytes(gpu.vramBytes)} of VRAM back in ${formatDuration(gpu.restoreMs)}`;
}

function processesText(count: number): string {
  return count === 1 ? '1 process' : `${String(count)} processes`;
}

function pairText({ from, to }: { readonly from: string; readonly to: string }): string {
  return from === to ? `${from} as before` : `${from} → ${to}`;
}

export function addRestoreCommand(program: Command, cli: Cli): void {
  const command = program
    .command('restore')
    .summary('bring a checkpoint back as a new container')
    .description(
      'Makes a new container from a checkpoint. Every byte is checked before a process runs from it. One checkpoint ' +
        'restores any number of times.',
    )
    .argument('[checkpoint]', 'checkpoint id, as `kybernate ls` shows it')
    .option('--path <directory>', 'instead of an id: a bare directory of CRIU images on the node')
    .option('--unverified', 'needed with --path: nothing can be checked there')
    .option('--node <name>', 'node to restore on (default: KYBERNATE_NODE, or the host name)')
    .option('--name <container id>', 'containerd id of the new container (default: made from that of the source)')
    .option('--namespace <name>', 'containerd namespace (default: that of the source)')
    .option(
      '--docker',
      'through the Docker daemon of the node: into the source where it is stopped, else into a new container, --name its name',
    )
    .addOption(new Option('--tcp <policy>', 'captured TCP connections (default: close)').choices(['keep', 'close']))
    .option('--network-namespace <path>', 'join this network namespace (default: as captured)')
    .option('--log-file <path>', 'append stdout and stderr to this file of the node (default: dropped)')
    .addOption(new Option('--source <where>', 'which copy to use (default: auto)').choices(['auto', 'local', 'store']))
    .addOption(new Option('--on-failure <policy>', 'when CRIU refuses (default: fail)').choices(['fail', 'cold-start']))
    .option(
      '--ladder <rungs>',
      'what is tried, in this order, by commas: local-copy, other-tier, peer, another-gpu (these are the default), ' +
        'another-node, older-checkpoint, cold-start',
      listArgument,
    )
    .option('--peer <node>', 'a node that may have a copy; any number of times', (node, before?: string[]) => [
      ...(before ?? []),
      node,
    ])
    .option('--other-node <node>', 'for another-node; any number of times', (node, before?: string[]) => [
      ...(before ?? []),
      node,
    ])
    .option(
      '--restore-budget <duration>',
      'longest time for the processes to come back (default: 5m)',
      durationArgument,
    )
    .option(
      '--gpu <from=to>',
      'UUID of a GPU at the checkpoint and of the one that takes its place; any number of times (default: the same, or a free one of its model)',
      gpuPairArgument,
    )
    .option('--input <file>', 'read the whole request as JSON from a file, or - for stdin; flags override it')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate restore ck-20260301093012-1f3a9b2c', 'restore on this host, under a new container id'],
      ['kybernate restore nightly --node worker-4 --source store', 'on another node, from the store'],
      ['kybernate restore nightly --tcp keep --network-namespace /run/netns/app', 'with its connections alive'],
      ['kybernate restore train --gpu GPU-1f…=GPU-9c…', 'on another GPU; the UUIDs are those of `kybernate gpu list`'],
      [
        'kybernate restore nightly --ladder local-copy,other-tier,older-checkpoint,cold-start',
        'back into service whatever it takes; the result says what it took',
      ],
      ['kybernate restore web-1 --docker', 'a Docker container goes on: the stopped source, or one of its name'],
      ['kybernate restore web-1 --docker --name web-copy --node worker-4', 'in the Docker daemon of another node'],
      ['kybernate restore --path /srv/images/app --unverified', 'images that `ctr` or `runc` made'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'NodeUnavailable',
      'Incompatible',
      'RestoreRefused',
      'GpuUnsupported',
      'GpuOutOfMemory',
      'RestoreFailed',
      'HookFailed',
      'CheckpointCorrupt',
      'SignatureInvalid',
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
  command.action((checkpoint: string | undefined, flags: RestoreFlags) => runRestore(cli, checkpoint, flags));
}

function listArgument(text: string): string[] {
  return text.split(',').map((one) => one.trim());
}

async function runRestore(cli: Cli, checkpoint: string | undefined, flags: RestoreFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { restoreInput } = await import('../../core/contract/restore.ts');
  const base = await readRequest(flags.input, cli.terminal);
  const request = await checkRequest(
    restoreInput,
    restoreRequest(checkpoint, flags, base, () => cli.config().node),
    RESTORE_FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.restore(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `restore of ${request.checkpointId ?? request.path ?? ''} on ${request.node}`,
      detach: flags.detach,
      render: renderRestoreResult,
    },
  );
}
