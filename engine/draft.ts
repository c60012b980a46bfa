/*
 * The draft of a checkpoint's metadata, everything but sizes and digests: the runner leaves it beside what it has captured,
 * and the commit makes metadata.json of it.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CUDA_DIR, CUDA_FILES, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { METADATA_VERSION, type Metadata } from '../core/checkpoint/metadata.ts';
import type { PhaseTimes } from '../core/contract/checkpoint.ts';
import { KybernateError } from '../core/errors.ts';
import { CRIU_OPTIONS } from '../core/oci/criu-options.ts';
import type { GpuMemoryUse } from '../native/cuda/gpu-driver.ts';
import type { CaptureOutcome } from './capture.ts';
import { hasGpu, measuredMemory } from './gpu-section.ts';
import { gpuMetadata, gpuStateFile } from './gpu/gpu-metadata.ts';
import { bootId, type OperationPlan } from './operation.ts';

/** Beside the directory, so that everything inside it belongs to the checkpoint. */
export function draftPath(checkpointDir: string): string {
  return `${checkpointDir}.draft.json`;
}

/** What is known when the capture ends. */
export type MetadataDraft = Omit<Metadata, 'createdAt' | 'labels' | 'sizes' | 'merkleRoot'> & {
  readonly bootId: string;
  readonly bytes: { readonly image: number; readonly rootfs: number };
};

interface Captured {
  /** of the capture */
  readonly method: string;
  readonly outcome: CaptureOutcome;
  readonly phases: PhaseTimes;
}

/** @param memory VRAM that the GPU processes held when they were locked */
function draftMetadata(
  plan: OperationPlan,
  { method, outcome, phases }: Captured,
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
export async function writeDraft(plan: OperationPlan, captured: Captured): Promise<void> {
  const memory = hasGpu(plan) ? measuredMemory(plan) : [];
  if (plan.facts.tree === undefined) {
    await writeFile(join(plan.checkpointDir, OWN_FILES.spec), plan.facts.record.spec, { mode: 0o600 });
  }
  if (plan.gpu.processes.length > 0) {
    await mkdir(join(plan.checkpointDir, CUDA_DIR), { recursive: true, mode: 0o700 });
    await writeFile(join(plan.checkpointDir, CUDA_FILES.state), gpuStateFile(plan, memory), { mode: 0o600 });
  }
  const draft = JSON.stringify(draftMetadata(plan, captured, memory));
  await writeFile(draftPath(plan.checkpointDir), draft, { mode: 0o600 });
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
