/*
 * From a captured directory to a committed checkpoint. The runner leaves a draft of the metadata, everything but
 * sizes and digests; the commit, outside the freeze, syncs every file, and writes metadata.json last. Until then the
 * directory is not a checkpoint, and whoever finds it may remove it.
 */
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CUDA_DIR, CUDA_FILES, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { METADATA_VERSION, metadata as metadataSchema, type Metadata } from '../core/checkpoint/metadata.ts';
import type { PhaseTimes } from '../core/contract/checkpoint.ts';
import { KybernateError } from '../core/errors.ts';
import { CRIU_OPTIONS } from '../core/oci/criu-options.ts';
import type { Op } from '../core/op.ts';
import type { GpuMemoryUse } from '../native/cuda/gpu-driver.ts';
import type { CaptureOutcome } from './capture.ts';
import { gpuMetadata, gpuStateFile } from './gpu/gpu-metadata.ts';
import { bootId, type OperationPlan } from './operation.ts';
import { openNoFollow, shareHandle } from './sharing.ts';

/** Beside the directory, so that everything inside it belongs to the checkpoint. */
export function draftPath(checkpointDir: string): string {
  return `${checkpointDir}.draft.json`;
}

/** What is known when the capture ends. */
export type MetadataDraft = Omit<Metadata, 'createdAt' | 'labels' | 'sizes' | 'merkleRoot'> & {
  readonly bootId: string;
  readonly bytes: { readonly image: number; readonly rootfs: number };
};

/** @param memory VRAM that the GPU processes held when they were locked */
export function draftMetadata(
  plan: OperationPlan,
  method: string,
  outcome: CaptureOutcome,
  phases: PhaseTimes,
  memory: readonly GpuMemoryUse[],
): MetadataDraft {
  const { facts, analysis } = plan;
  return {
    version: METADATA_VERSION,
    checkpointId: plan.checkpointId,
    container: {
      id: plan.container.id,
      namespace: plan.container.namespace,
      runtime: facts.record.runtime.name,
      labels: { ...facts.record.labels },
      ...(facts.record.createdAt === undefined ? {} : { createdAt: facts.record.createdAt }),
      ...(facts.image === undefined ? {} : { image: facts.image }),
      ...(facts.docker === undefined ? {} : { docker: facts.docker }),
      ...(facts.pod === undefined ? {} : { pod: facts.pod }),
    },
    node: nodeMetadata(plan),
    capture: {
      engine: plan.engine,
      method,
      tcp: plan.tcp,
      after: plan.after,
      criuOptions: [...analysis.options.map(({ option, reason }) => ({ option, reason })), ...pluginsOff(plan)],
      phases: { ...phases, parts: { ...phases.parts } },
      ...(analysis.tcpPorts.length === 0 ? {} : { tcpPorts: [...analysis.tcpPorts] }),
      ...(analysis.listening === undefined
        ? {}
        : { listening: analysis.listening.map((endpoint) => ({ ...endpoint })) }),
      ...(analysis.connectedAddresses === undefined ? {} : { connectedAddresses: [...analysis.connectedAddresses] }),
      ...(analysis.hugePages === undefined ? {} : { hugePages: analysis.hugePages.map((pages) => ({ ...pages })) }),
      ...(outcome.ids === undefined ? {} : { ids: [...outcome.ids] }),
      ...(outcome.networkHold === undefined ? {} : { networkHold: outcome.networkHold }),
    },
    ...(facts.security === undefined ? {} : { security: { ...facts.security } }),
    processes: facts.processes.map(({ hostPid, nsPid, parentHostPid, command, threads }) => ({
      hostPid,
      nsPid,
      parentHostPid,
      command,
      threads,
    })),
    ...gpuMetadata(plan, memory),
    ...(outcome.process === undefined ? {} : { process: outcome.process }),
    stdio: facts.stdio,
    mounts: facts.mounts.map((mount) => ({ ...mount, options: [...mount.options] })),
    ...(analysis.hookMounts === undefined ? {} : { hookMounts: analysis.hookMounts.map((mount) => ({ ...mount })) }),
    ...(analysis.volumes === undefined
      ? {}
      : { volumes: analysis.volumes.map(({ name, destination, file }) => ({ name, destination, file })) }),
    rootfs: {
      method: outcome.rootfsMethod,
      deletedFiles: outcome.deletedFiles,
      ...(facts.record.snapshotter === '' ? {} : { snapshotter: facts.record.snapshotter }),
      ...(facts.snapshotParent === undefined ? {} : { parent: facts.snapshotParent }),
      ...(facts.idMapping === undefined ? {} : { idMapping: { ...facts.idMapping } }),
    },
    ...(facts.networkNamespace.path === undefined ? {} : { networkNamespace: facts.networkNamespace.path }),
    warnings: [...analysis.warnings, ...outcome.warnings],
    bootId: plan.bootId,
    bytes: { image: outcome.imageBytes, rootfs: outcome.rootfsBytes },
  };
}

/** The engine `containerd` has no way to say it. */
function pluginsOff({ engine, gpu }: OperationPlan): { option: string; reason: string }[] {
  return engine === 'runc' && gpu.processes.length > 0
    ? [
        {
          option: CRIU_OPTIONS.pluginDir.criu,
          reason: "CRIU's cuda plugin is off: the GPU state is saved by our own calls",
        },
      ]
    : [];
}

function nodeMetadata({ nodeFacts }: OperationPlan): Metadata['node'] {
  const { node, cpuFlags, gpuDriver, ...rest } = nodeFacts;
  return { ...rest, name: node, cpuFlags: [...cpuFlags], ...(gpuDriver === undefined ? {} : { gpuDriver }) };
}

/** Writes the draft, a container's specification and the state of the GPU. Not synced: the commit does that. */
export async function writeDraft(
  plan: OperationPlan,
  draft: MetadataDraft,
  memory: readonly GpuMemoryUse[],
): Promise<void> {
  if (plan.facts.tree === undefined) {
    await writeFile(join(plan.checkpointDir, OWN_FILES.spec), plan.facts.record.spec, { mode: 0o600 });
  }
  if (plan.gpu.processes.length > 0) {
    await mkdir(join(plan.checkpointDir, CUDA_DIR), { recursive: true, mode: 0o700 });
    await writeFile(join(plan.checkpointDir, CUDA_FILES.state), gpuStateFile(plan, memory), { mode: 0o600 });
  }
  await writeFile(draftPath(plan.checkpointDir), JSON.stringify(draft), { mode: 0o600 });
}

/** @returns undefined when the directory is committed already, or was never captured */
export async function readDraft(checkpointDir: string): Promise<MetadataDraft | undefined> {
  try {
    return JSON.parse(await readFile(draftPath(checkpointDir), 'utf8')) as MetadataDraft;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

/** The committed metadata, or undefined. */
export async function readMetadata(checkpointDir: string): Promise<Metadata | undefined> {
  let text: string;
  try {
    text = await readFile(join(checkpointDir, METADATA_FILE), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
  const parsed = metadataSchema.safeParse(JSON.parse(text));
  if (!parsed.success) {
    throw new KybernateError('CheckpointCorrupt', `${join(checkpointDir, METADATA_FILE)} is not readable metadata`, {
      cause: parsed.error,
    });
  }
  return parsed.data;
}

/**
 * Is what lies in the directory what the runner wrote? After a reboot unsynced files may be short or empty.
 * @throws CheckpointCorrupt
 */
export function checkDraft(checkpointDir: string, draft: MetadataDraft | undefined): asserts draft is MetadataDraft {
  if (draft === undefined) {
    throw new KybernateError('CheckpointCorrupt', `${checkpointDir} holds no finished capture`);
  }
  if (draft.bootId !== bootId()) {
    throw new KybernateError(
      'CheckpointCorrupt',
      `the node was rebooted between the capture and the commit of ${draft.checkpointId}: its files may be incomplete`,
    );
  }
}

export interface CommitFacts {
  readonly labels: Readonly<Record<string, string>>;
  readonly merkleRoot: string;
  readonly totalBytes: number;
  readonly uploadPending: boolean;
  /** signs what is about to be committed, by the text of its metadata */
  readonly sign?: (metadataText: string) => Promise<void>;
  /** group that may read the files from now on; absent: root alone */
  readonly groupId?: number | undefined;
}

/**
 * Syncs all files and makes the directory a checkpoint.
 * @throws DiskFull
 * Crash before the last rename: not a checkpoint; the call may be made again.
 */
export async function commitCheckpoint(
  checkpointDir: string,
  draft: MetadataDraft,
  facts: CommitFacts,
  op: Op,
): Promise<Metadata> {
  const { bootId: _boot, bytes, ...rest } = draft;
  const metadata: Metadata = {
    ...rest,
    createdAt: new Date().toISOString(),
    labels: { ...facts.labels },
    sizes: { totalBytes: facts.totalBytes, imageBytes: bytes.image, rootfsBytes: bytes.rootfs },
    merkleRoot: facts.merkleRoot,
  };
  try {
    if (facts.uploadPending) {
      await writeFile(join(checkpointDir, OWN_FILES.uploadPending), '', { mode: 0o600 });
    }
    const text = `${JSON.stringify(metadata, null, 1)}\n`;
    await facts.sign?.(text);
    await syncTree(checkpointDir, facts.groupId, op);
    await writeLast(checkpointDir, METADATA_FILE, text, facts.groupId);
    await rm(draftPath(checkpointDir), { force: true });
    await syncPath(dirname(checkpointDir));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') {
      throw new KybernateError('DiskFull', `no space to commit ${checkpointDir}; it is not a checkpoint`, {
        cause: error,
      });
    }
    throw error;
  }
  return metadata;
}

/** Temporary file, fsync, rename, fsync of the directory. A crash leaves a temporary form, which is nobody's content. */
async function writeLast(dir: string, name: string, text: string, groupId: number | undefined): Promise<void> {
  const temporary = join(dir, `${name}.tmp`);
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(text);
    if (groupId !== undefined) {
      await shareHandle(file, 'file', groupId);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(dir, name));
  await syncPath(dir);
}

/** Files before their directory: what the group cannot enter yet need not be whole. */
async function syncTree(dir: string, groupId: number | undefined, op: Op): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    op.signal.throwIfAborted();
    const path = join(dir, entry.name);
    await (entry.isDirectory() ? syncTree(path, groupId, op) : syncPath(path, 'file', groupId));
  }
  await syncPath(dir, 'dir', groupId);
}

async function syncPath(path: string, kind: 'file' | 'dir' = 'dir', groupId?: number): Promise<void> {
  const file = await openNoFollow(path);
  try {
    if (groupId !== undefined) {
      await shareHandle(file, kind, groupId);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Removes what a capture left, unless it is committed. Idempotent.
 * The directory is moved aside first: a commit that is under way (an attempt that Temporal gave up) then fails, instead
 * of writing metadata.json beside files that are being removed.
 * Crash: what was moved aside is removed, or brought back, by the next call.
 */
export async function removeUncommitted(checkpointDir: string): Promise<boolean> {
  const aside = join(dirname(checkpointDir), `.discard-${basename(checkpointDir)}`);
  if (await isCommitted(checkpointDir)) {
    if (!(await isCommitted(aside))) {
      await rm(aside, { recursive: true, force: true });
    }
    return false;
  }
  if (!(await isCommitted(aside))) {
    await rm(aside, { recursive: true, force: true });
    await rename(checkpointDir, aside).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw error;
      }
    });
  }
  if (await isCommitted(aside)) {
    // The commit was faster than the move, hence whole.
    await rename(aside, checkpointDir);
    return false;
  }
  await rm(aside, { recursive: true, force: true });
  await rm(draftPath(checkpointDir), { force: true });
  return true;
}

/** @throws whatever keeps us from knowing: a disk that cannot be read is not an uncommitted checkpoint */
async function isCommitted(dir: string): Promise<boolean> {
  try {
    await stat(join(dir, METADATA_FILE));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return false;
    }
    throw error;
  }
}

/** Did an earlier attempt commit? Removes the draft that its crash may have left: after a reboot it would be refused. */
export async function wasCommitted(checkpointDir: string): Promise<boolean> {
  if ((await readMetadata(checkpointDir)) === undefined) {
    return false;
  }
  await rm(draftPath(checkpointDir), { force: true });
  return true;
}
