/* `kybernate inspect`: what a checkpoint holds, from its metadata; nothing of the images is read. */
import type { Command } from 'commander';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import { durabilityOf, openLocalCatalog, withStore } from '../all-checkpoints.ts';
import type { SeenCheckpoint } from '../all-checkpoints.ts';
import type { Backend } from '../../store/backend/backend.ts';
import type { RemoteCheckpoint } from '../../store/catalog.ts';
import type { Cli } from '../cli.ts';
import type { CliConfig } from '../config.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';
import type { Column } from '../output.ts';
import { formatBytes, formatDuration, formatTime } from '../units.ts';

interface InspectFlags {
  readonly files?: boolean;
  readonly store?: string;
  readonly json?: boolean;
}

const UNREACHABLE = ['StorageUnavailable', 'StorageDenied'] as const;

interface FileRow {
  readonly path: string;
  readonly bytes: number;
}

export function addInspectCommand(program: Command, cli: Cli): void {
  const command = program
    .command('inspect')
    .summary('show what a checkpoint holds')
    .description(
      'Shows where a checkpoint comes from, its processes, sizes, times and CRIU options. Looks on this node, then in the ' +
        'store; when that cannot be read, what this node has is shown with a remark. With --json: the whole metadata.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .option('--files', 'list its files with their sizes')
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate inspect nightly', 'a summary'],
      ['kybernate inspect nightly --files --json', 'metadata and file list, for a program'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
    ]),
  });
  command.action(async (checkpointId: string, flags: InspectFlags) => {
    const output = createOutput(cli.streams, flags);
    const config = cli.config();
    const { seen, files, storeError } = await find(
      config,
      flags.store ?? config.store,
      checkpointId,
      flags.files === true,
    );
    const places = { local: seen.local?.path, remote: seen.remote?.remote };
    const warnings = storeError === undefined ? [] : [`the store was not looked at: ${messageOf(storeError)}`];
    output.result({ metadata: seen.metadata, durability: durabilityOf(seen), ...places, files, warnings }, () =>
      [renderCheckpoint(seen), ...(files === undefined ? [] : ['', renderFiles(files)])].join('\n'),
    );
    warnings.forEach((warning) => output.note(`note: ${warning}`));
  });
}

interface Found {
  readonly seen: SeenCheckpoint;
  readonly files?: readonly FileRow[];
  /** why the store was not looked at, where this node has the checkpoint */
  readonly storeError?: unknown;
}

/**
 * @param storeUrl undefined: only this node is looked at
 * @throws CheckpointNotFound when it is in neither place; the errors of the store when this node has none
 */
async function find(
  config: CliConfig,
  storeUrl: string | undefined,
  checkpointId: string,
  withFiles: boolean,
): Promise<Found> {
  const catalog = await openLocalCatalog(config);
  const local = await orNotFound(catalog.get(checkpointId));
  const localFiles = local !== undefined && withFiles ? (await catalog.manifest(checkpointId)).files : undefined;
  if (storeUrl === undefined) {
    if (local === undefined) {
      throw notFound(checkpointId, config, 'and no store is configured (KYBERNATE_STORE or --store)');
    }
    return withoutAbsent({ checkpointId, metadata: local.metadata, local }, localFiles);
  }
  const stored = withStore(config, storeUrl, async (backend) => {
    const { getManifest } = await import('../../store/catalog.ts');
    const found = await orNotFound(getManifest(backend, checkpointId));
    const remote = found && { ...found, ...(await readback(backend, found)) };
    const metadata = local?.metadata ?? remote?.metadata;
    if (metadata === undefined) {
      throw notFound(checkpointId, config, `nor in ${backend.url}`);
    }
    const seen = { checkpointId, metadata, ...(local && { local }), ...(remote && { remote }) };
    if (!withFiles || localFiles !== undefined || remote === undefined) {
      return withoutAbsent(seen, localFiles);
    }
    const { readFileList } = await import('../../store/file-list.ts');
    const { manifest } = await readFileList(backend, remote.manifest, new AbortController().signal);
    return { seen, files: manifest.files };
  });
  try {
    return await stored;
  } catch (error) {
    if (local === undefined || !UNREACHABLE.some((type) => isKybernateError(error, type))) {
      throw error;
    }
    const seen = { checkpointId, metadata: local.metadata, local, storeUnread: true } as const;
    return { ...withoutAbsent(seen, localFiles), storeError: error };
  }
}

async function readback(backend: Backend, found: RemoteCheckpoint): Promise<{ verifiedAt?: string }> {
  const { findVerified } = await import('../../store/verified.ts');
  const { publicationDigest } = await import('../../store/file-list.ts');
  const { checkpointId, manifest } = found;
  const subject = { checkpointId, digest: publicationDigest(manifest) };
  const verifiedAt = await findVerified(backend, subject, new AbortController().signal);
  return verifiedAt === undefined ? {} : { verifiedAt };
}

function withoutAbsent(
  seen: SeenCheckpoint,
  files: readonly FileRow[] | undefined,
): { seen: SeenCheckpoint; files?: readonly FileRow[] } {
  return files === undefined ? { seen } : { seen, files: files.map(({ path, bytes }) => ({ path, bytes })) };
}

async function orNotFound<Found>(promise: Promise<Found>): Promise<Found | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return undefined;
    }
    throw error;
  }
}

function notFound(checkpointId: string, config: CliConfig, rest: string): KybernateError {
  return new KybernateError('CheckpointNotFound', `no checkpoint ${checkpointId} below ${config.stateDir}, ${rest}`, {
    details: { checkpointId },
  });
}

export function renderCheckpoint(seen: SeenCheckpoint): string {
  const { metadata, local, remote } = seen;
  const { container, node, capture } = metadata;
  const summary = renderPairs([
    ['checkpoint', seen.checkpointId],
    ['created', `${formatTime(metadata.createdAt)} UTC`],
    ...sourceOf(metadata),
    ['pod', container.pod && `${container.pod.namespace}/${container.pod.name}/${container.pod.container}`],
    ['image', container.image && `${container.image.ref} ${container.image.digest}`],
    ['node', `${node.name}: Linux ${node.kernel} ${node.arch}, ${node.cpuModel}`],
    ['made with', `CRIU ${node.criuVersion}, runc ${node.runcVersion}, containerd ${node.containerdVersion}`],
    ['capture', captureText(metadata)],
    ['stood still', formatDuration(capture.phases.freezeMs)],
    ['GPU pause', capture.phases.gpuPauseMs === undefined ? undefined : formatDuration(capture.phases.gpuPauseMs)],
    ['GPU driver', metadata.gpu?.driver],
    ['size', sizeText(metadata)],
    ['durability', durabilityOf(seen)],
    ['verified', remote?.verifiedAt && `${formatTime(remote.verifiedAt)} UTC`],
    ['on this node', local?.path],
    ['in the store', remote && `${remote.remote}, ${formatBytes(storedBytes(remote.manifest.packs))} of packs`],
    ['labels', textOrAbsent(Object.entries(metadata.labels).map(([name, value]) => `${name}=${value}`))],
    ['CRIU options', textOrAbsent(capture.criuOptions.map(({ option, reason }) => `${option}: ${reason}`))],
    ['not captured', textOrAbsent(metadata.mounts.filter((mount) => !mount.captured).map(mountText))],
    ['warnings', textOrAbsent(metadata.warnings)],
    ['Merkle root', metadata.merkleRoot],
  ]);
  return [
    summary,
    renderProcesses(metadata),
    ...(metadata.gpu === undefined ? [] : [renderGpus(metadata.gpu.devices)]),
  ].join('\n\n');
}

function sourceOf({ container, process: tree }: Metadata): Array<readonly [string, string | undefined]> {
  return tree === undefined
    ? [
        ['container', `${container.namespace}/${container.id}, runtime ${container.runtime}`],
        ['in Docker', container.docker?.name],
      ]
    : [
        ['process', `${tree.pid}: ${tree.args.join(' ')}`],
        ['user, directory', `${tree.uid}, ${tree.cwd}`],
        ['open files', textOrAbsent(tree.files.map(({ path, bytes }) => `${path}, ${formatBytes(bytes)}`))],
      ];
}

function captureText({ capture, stdio }: Metadata): string {
  const terminal = stdio.terminal ? ', with a terminal' : '';
  return `engine ${capture.engine}, method ${capture.method}, tcp ${capture.tcp}, after: ${capture.after}${terminal}`;
}

function sizeText({ sizes, rootfs }: Metadata): string {
  const layer =
    rootfs.method === 'none' ? 'file system not captured' : `${formatBytes(sizes.rootfsBytes)} writable layer`;
  return `${formatBytes(sizes.totalBytes)}: ${formatBytes(sizes.imageBytes)} images, ${layer}`;
}

/** Of all packs that hold a chunk of it; other checkpoints may share them. */
function storedBytes(packs: ReadonlyArray<readonly [string, number]>): number {
  return packs.reduce((sum, [, bytes]) => sum + bytes, 0);
}

function mountText(mount: Metadata['mounts'][number]): string {
  return `${mount.destination} (${mount.type} from ${mount.source})`;
}

function textOrAbsent(lines: readonly string[]): string | undefined {
  return lines.length === 0 ? undefined : lines.join('\n');
}

function renderProcesses({ processes, gpuProcesses }: Metadata): string {
  const onGpu = new Map(gpuProcesses.map(({ hostPid, vramBytes }) => [hostPid, vramBytes]));
  return renderTable(processes, [
    { title: 'PID', value: (row) => String(row.nsPid), align: 'right' },
    { title: 'HOST PID', value: (row) => String(row.hostPid), align: 'right' },
    { title: 'PARENT', value: (row) => String(row.parentHostPid), align: 'right' },
    { title: 'THREADS', value: (row) => String(row.threads), align: 'right' },
    ...(onGpu.size === 0 ? [] : [vramColumn(onGpu)]),
    { title: 'COMMAND', value: (row) => row.command },
  ]);
}

function vramColumn(onGpu: ReadonlyMap<number, number>): Column<Metadata['processes'][number]> {
  const value = ({ hostPid }: { hostPid: number }): string => {
    const bytes = onGpu.get(hostPid);
    return bytes === undefined ? '-' : formatBytes(bytes);
  };
  return { title: 'VRAM', value, align: 'right' };
}

/** Those that the container could see. */
function renderGpus(devices: NonNullable<Metadata['gpu']>['devices']): string {
  return renderTable(devices, [
    { title: 'GPU', value: (row) => String(row.minor), align: 'right' },
    { title: 'UUID', value: (row) => row.uuid },
    { title: 'MODEL', value: (row) => row.name },
    { title: 'COMPUTE', value: (row) => row.computeCapability },
    { title: 'VRAM USED', value: (row) => formatBytes(row.usedBytes), align: 'right' },
    { title: 'VRAM', value: (row) => formatBytes(row.memoryTotalBytes), align: 'right' },
  ]);
}

function renderFiles(files: readonly FileRow[]): string {
  return renderTable(files, [
    { title: 'SIZE', value: (row) => formatBytes(row.bytes), align: 'right' },
    { title: 'FILE', value: (row) => row.path },
  ]);
}
