/*
 * May this checkpoint run on this node? Everything that can be known before anything is made, every reason at once.
 * Reads only, and well below 100 ms: the programs' answers are kept as long as their files are the same.
 */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { freemem } from 'node:os';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { NodeFacts } from '../../core/contract/checkpoint.ts';
import type { RestoreContext } from '../../core/contract/restore.ts';
import type { GpuFit } from '../../core/oci/gpu-fit.ts';
import { normalizedDestination } from '../../core/oci/pod-volumes.ts';
import { namespaceReasons, restoredSpec } from '../../core/oci/restored-spec.ts';
import { namespaceKind, namespacePath, type OciSpec } from '../../core/oci/spec.ts';
import { userNamespaceReasons } from '../../core/oci/user-namespace.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import { hostNetwork, networkAt } from '../../native/proc/network-here.ts';
import { freeHugePages } from '../../native/proc/huge-pages.ts';
import { pathFacts } from '../../native/proc/path-facts.ts';
import { idsIn } from '../../native/proc/pid-namespace.ts';
import { readProc } from '../../native/proc/read.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { activeLsm, apparmorProfiles } from '../../native/proc/security.ts';
import { type Captured, noContainer, specInput } from '../captured.ts';
import { canLockByNftables, probeNodeFacts, type ProgramDeps } from '../facts.ts';
import { ancestorRaises } from '../gpu/restore-memory.ts';
import { limitsToPutBack } from '../gpu/reservations.ts';
import { planGpu } from '../gpu/restore-steps.ts';
import type { GpuRestorePlan } from '../gpu/restore-target.ts';
import type { NodeDeps } from '../node-deps.ts';
import { withImageHere } from '../imported-image.ts';
import { unreachableSources } from '../mount-reach.ts';
import { ownMountsFor } from '../own-places.ts';
import { volumePlaces } from '../pod-directories.ts';
import { hookFindings } from './hooks.ts';
import { imageFindings } from './image.ts';
import { criuTooOld, lsmFindings, nodeFindings } from './node.ts';
import { missingSources, ownMountFindings } from './mounts.ts';
import { missingPrograms } from './programs.ts';
import { mountFindings, networkFindings, pidFindings, roomFindings } from './resources.ts';
import { planReasons } from './restore-plan.ts';

export interface RestoreSurveyInput {
  readonly operationId: string;
  readonly context: Pick<RestoreContext, 'checkpointId' | 'path' | 'container'>;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly gpuMap: ReadonlyArray<{ readonly from: string; readonly to: string }>;
  /** UUIDs of this node's GPUs that are not to be used */
  readonly avoidGpus?: readonly string[];
  /** for messages and CRIU's arguments; it need not be there yet */
  readonly checkpointDir: string;
  /** of the checkpoint, still to be brought to this node */
  readonly missingBytes: number;
}

export interface RestoreSurvey {
  readonly findings: readonly Finding[];
  /** absent without GPU processes, and with errors about them */
  readonly gpu?: GpuRestorePlan;
}

/** @param checkpoint its own metadata and specification */
export async function surveyRestore(
  deps: NodeDeps,
  checkpoint: Captured,
  input: RestoreSurveyInput,
): Promise<RestoreSurvey> {
  const { operationId, context } = input;
  const captured = await withImageHere(deps, context.container.namespace, checkpoint);
  const { metadata } = captured;
  const gpu = await planGpu(deps, metadata, { operationId, map: input.gpuMap, avoid: input.avoidGpus ?? [] });
  const own = ownMountsFor(deps.settings, operationId, captured);
  const target = restoredSpec({ ...specInput(captured, { ...input, fit: gpu.plan?.fit, own }), onFailure: 'fail' });
  const [node, network, room, image] = await Promise.all([
    nodeReasons(deps, metadata, input.tcp),
    networkReasons(deps, target, metadata, input.tcp),
    roomReasons(deps, metadata, target, input),
    imageFindings(deps, metadata, context.container.namespace),
  ]);
  const findings = [
    ...dockersOwn(metadata),
    ...node,
    ...gpu.findings,
    ...image,
    ...containerReasons(captured, target, input, gpu.plan),
    ...mountFindings(
      metadata.mounts.filter(({ destination }) => !own.replaced.has(normalizedDestination(destination))),
      pathFacts,
      fileSystems(),
    ),
    ...ownMountFindings(own),
    ...missingSources(target, own, gpu.plan?.fit),
    ...network,
    ...pidReasons(metadata, target),
    ...room,
  ];
  return { findings, ...(gpu.plan === undefined ? {} : { gpu: gpu.plan }) };
}

/** Its root file system and its network are made by Docker, and containerd alone has neither. */
function dockersOwn({ container: { docker } }: Metadata): Finding[] {
  return docker === undefined
    ? []
    : [problem('docker', `it is of the container ${docker.name} of Docker: restore it through Docker (--docker)`)];
}

/** A container that somebody else has made. */
export interface ForeignTarget {
  readonly id: string;
  /** its specification, as its creator wrote it */
  readonly spec: OciSpec;
  /** that of the source */
  readonly captured: OciSpec;
  readonly imageDir: string;
  readonly fit?: GpuFit;
}

/**
 * For a container that somebody else has made: its specification, its network and its limits are theirs, and the wrapper
 * compares them.
 * @param pod of a container in a pod: these are compared here too, before anything is brought to the node
 */
export async function surveyForeignRestore(
  deps: NodeDeps,
  metadata: Metadata,
  tcp: 'keep' | 'close',
  pod?: ForeignTarget,
): Promise<readonly Finding[]> {
  if (metadata.process !== undefined) {
    return [noContainer(metadata)];
  }
  // An archive of another engine does not say in which namespace of this containerd its image is, if in any.
  const image = metadata.origin === undefined ? await imageFindings(deps, metadata, metadata.container.namespace) : [];
  const inPod =
    pod === undefined
      ? []
      : [
          ...planReasons({ metadata, spec: pod.captured }, pod.spec, { ...pod, tcp }),
          ...(await networkReasons(deps, pod.spec, metadata, tcp)),
          ...volumePlaces(metadata.volumes ?? [], pod.spec, deps.settings).reasons.map((message) =>
            problem('mounts', message),
          ),
          ...pidReasons(metadata, pod.spec),
        ];
  return [...(await nodeReasons(deps, metadata, tcp)), ...image, ...inPod];
}

async function nodeReasons(deps: NodeDeps, metadata: Metadata, tcp: 'keep' | 'close'): Promise<Finding[]> {
  return [
    ...(await machineReasons(deps, await probeNodeFacts(deps), metadata, tcp)),
    ...hookFindings(deps.settings.hooks, { operation: 'restore', kind: 'container' }),
  ];
}

/** What holds for containers and processes alike. */
export async function machineReasons(
  deps: ProgramDeps,
  here: NodeFacts,
  metadata: Metadata,
  tcp: 'keep' | 'close',
): Promise<Finding[]> {
  const locked = metadata.capture.criuOptions.some(({ option }) => option === 'network-lock nftables');
  const unlocks = !locked || tcp === 'close' || (await canLockByNftables(deps));
  const lsm = activeLsm();
  const profiles = lsm === 'apparmor' ? apparmorProfiles() : undefined;
  return [
    ...criuTooOld(here.criuVersion),
    ...nodeFindings(knownOf(metadata, here), here),
    ...(unlocks ? [] : [problem('criu-features', 'its connections are kept, and this CRIU cannot lock by nftables')]),
    ...(await missingPrograms(deps)),
    ...lsmFindings(metadata.security, { kind: lsm, ...(profiles === undefined ? {} : { profiles }) }),
  ];
}

/** What an archive of another engine does not tell compares with nothing. */
function knownOf({ node, origin }: Metadata, here: NodeFacts): Metadata['node'] {
  return origin === undefined
    ? node
    : { ...node, arch: node.arch === 'unknown' ? here.arch : node.arch, cgroupVersion: here.cgroupVersion };
}

function containerReasons(
  captured: Captured,
  target: OciSpec,
  input: RestoreSurveyInput,
  gpu: GpuRestorePlan | undefined,
): Finding[] {
  const { context, checkpointDir: imageDir, tcp } = input;
  const fit = gpu?.fit === undefined ? {} : { fit: gpu.fit };
  return [
    ...[...namespaceReasons(target, existsSync), ...userNamespaceReasons(target)].map((message) =>
      problem('container', message),
    ),
    ...unreachableSources(target).map((message) => problem('mounts', message)),
    ...planReasons(captured, target, { id: context.container.id, imageDir, tcp, ...fit }),
  ];
}

/** A namespace of its own comes from the images, with its addresses. */
async function networkReasons(
  deps: NodeDeps,
  target: OciSpec,
  { capture }: Metadata,
  tcp: 'keep' | 'close',
): Promise<Finding[]> {
  const kind = namespaceKind(target, 'network');
  if (kind === 'own') {
    return [];
  }
  const path = namespacePath(target, 'network');
  if (path === undefined) {
    return networkFindings(capture, tcp, { name: "the host's network", ...hostNetwork() });
  }
  const silent = capture.listening === undefined || (capture.listening.length === 0 && tcp === 'close');
  // One that is not there is told already, and so is one that nothing would be looked up in.
  if (!existsSync(path) || (silent && (capture.tcpPorts ?? []).length === 0)) {
    return [];
  }
  const state = await networkAt(deps.run, path);
  return state === undefined
    ? [problem('container', `network namespace: ${path} cannot be entered`)]
    : networkFindings(capture, tcp, { name: `network namespace ${path}`, ...state });
}

/** Where the pid namespace is there before the container, every process and thread must find its own number free. */
function pidReasons({ capture, processes }: Metadata, target: OciSpec): Finding[] {
  const kind = namespaceKind(target, 'pid');
  if (kind === 'own') {
    return [];
  }
  const ids = capture.ids ?? processes.map(({ nsPid }) => nsPid);
  const path = namespacePath(target, 'pid');
  const inside = path === undefined ? undefined : idsIn(path);
  // One that is not there is told by others.
  if (path !== undefined && inside === undefined) {
    return [];
  }
  const holderOf = (id: number): number | undefined =>
    inside === undefined ? (existsSync(`/proc/${id}`) ? id : undefined) : inside.get(id);
  return pidFindings(ids, {
    taken: ids.flatMap((id) => {
      const hostPid = holderOf(id);
      return hostPid === undefined ? [] : [{ id, hostPid, command: readProcess(hostPid)?.command ?? 'unknown' }];
    }),
    pidMax: Number(readProc('/proc/sys/kernel/pid_max') ?? Number.MAX_SAFE_INTEGER),
  });
}

async function roomReasons(
  deps: NodeDeps,
  metadata: Metadata,
  target: OciSpec,
  { missingBytes, operationId }: RestoreSurveyInput,
): Promise<Finding[]> {
  const { stateDir } = deps.settings;
  const disk = await statfs(stateDir);
  const { imageBytes } = metadata.sizes;
  const hugeBytes = (metadata.capture.hugePages ?? []).reduce((sum, { bytes }) => sum + bytes, 0);
  const hasGpu = metadata.gpuProcesses.length > 0;
  const findings = roomFindings(metadata.capture, Math.max(0, imageBytes - hugeBytes), {
    disk: { dir: stateDir, freeBytes: disk.bavail * disk.bsize, neededBytes: missingBytes },
    // With GPU processes the plan of the GPU counts memory, and what is promised to others.
    memoryBytes: hasGpu ? Number.MAX_SAFE_INTEGER : freemem(),
    swapBytes: swapFreeBytes(),
    hugePages: freeHugePages(),
  });
  const cgroupsPath = target.linux?.cgroupsPath;
  if (hasGpu || cgroupsPath === undefined) {
    return findings;
  }
  const { raises, refusals } = ancestorRaises(
    cgroupsPath,
    imageBytes,
    await limitsToPutBack(deps.settings, operationId),
  );
  const full = [...raises.map(({ file, before }) => `${file} is ${before}`), ...refusals];
  return [
    ...findings,
    ...full.map((what) => caution('memory-cgroup', `${what}, and ${imageBytes} bytes come back below it`)),
  ];
}

function swapFreeBytes(): number {
  return Number(/^SwapFree:\s*(\d+) kB$/m.exec(readProc('/proc/meminfo') ?? '')?.[1] ?? 0) * 1024;
}

function fileSystems(): ReadonlySet<string> {
  const lines = (readProc('/proc/filesystems') ?? '').split('\n');
  return new Set(lines.map((line) => line.split('\t')[1] ?? '').filter((type) => type !== ''));
}
