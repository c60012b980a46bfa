/*
 * The GPU's part of a plan: which processes of the container hold GPU state, what has to be prepared for its save, and
 * every reason why it cannot be saved, before anything is touched. A container without GPU processes pays for one
 * question to the driver a process on a node with a GPU, and for nothing on others.
 */
import { existsSync } from 'node:fs';
import { arch, freemem } from 'node:os';
import { isAbsolute } from 'node:path';
import type { GpuOptions } from '../../core/contract/gpu.ts';
import { withAnnotations } from '../../core/gpu/annotations.ts';
import { parseSpec, type OciSpec } from '../../core/oci/spec.ts';
import type { GpuDevice, GpuDriver, GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { canInject } from '../../native/ptrace/inject.ts';
import type { ContainerFacts, ProcessFacts } from '../container-facts.ts';
import type { NodeDeps } from '../node-deps.ts';
import { discover, type CudaProcess, type Discovery } from './discovery.ts';
import { gateReasons, MIN_API_VERSION, restoreEstimateMs, saveBytes, type GateProcess } from './gates.ts';
import { NO_GPU, type GpuPlan } from './gpu-plan.ts';
import { planMemoryRaises } from './memory-plan.ts';
import { hasPassedRehearsal } from './rehearsals.ts';
import { limitsToPutBack, reservedMemory, reservedVram } from './reservations.ts';
import { nodeMinorsOf, visibleDevices } from './visible.ts';

export interface GpuRequest {
  readonly operationId: string;
  readonly options: GpuOptions;
  readonly freezeBudgetMs: number;
  readonly rehearsal: boolean;
}

export interface GpuFindings {
  readonly plan: GpuPlan;
  /** what the driver cannot do */
  readonly unsupported: readonly string[];
  /** what this node or the request does not allow */
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
}

export const NO_FINDINGS: GpuFindings = { plan: NO_GPU, unsupported: [], refusals: [], warnings: [] };

type GpuDeps = Pick<NodeDeps, 'gpu' | 'settings'>;

/**
 * Reads only; nothing is locked.
 * @param holders host pids that have descriptors or mappings of NVIDIA devices
 * @throws InvalidInput an annotation of the container cannot be read
 */
export async function analyzeGpu(
  deps: GpuDeps,
  facts: ContainerFacts,
  holders: readonly number[],
  request: GpuRequest,
): Promise<GpuFindings> {
  if (holders.length === 0 && !mayHaveDriver(deps.settings.cudaLibrary)) {
    return NO_FINDINGS;
  }
  const opened = deps.gpu();
  if (opened.driver === undefined) {
    return holders.length === 0 ? NO_FINDINGS : unusable(facts, holders, opened.reason);
  }
  const { driver } = opened;
  if (driver.apiVersion < MIN_API_VERSION) {
    const reason =
      `the driver ${driver.version} (API ${driver.apiVersion}) cannot save GPU state, ` +
      `${MIN_API_VERSION} is needed: install driver 570 or later`;
    return holders.length === 0 ? NO_FINDINGS : unusable(facts, holders, reason);
  }
  const tree = facts.processes.filter((process) => !process.entered && readProcess(process.hostPid)?.state !== 'Z');
  const found = await discover(driver, tree, new Set(holders));
  if (found.cuda.length === 0) {
    return { ...NO_FINDINGS, unsupported: found.reasons };
  }
  return findingsOf({ deps, facts, driver, tree, request }, found);
}

/** A library that is named by its path is meant; otherwise the module's traces tell whether loading it is worth while. */
function mayHaveDriver(cudaLibrary: string): boolean {
  return isAbsolute(cudaLibrary) || existsSync('/dev/nvidiactl') || existsSync('/proc/driver/nvidia/version');
}

function unusable(facts: ContainerFacts, holders: readonly number[], reason: string): GpuFindings {
  const names = facts.processes
    .filter((process) => holders.includes(process.hostPid))
    .map(({ hostPid, command }) => `${hostPid} (${command})`);
  return {
    ...NO_FINDINGS,
    unsupported: [`it uses an NVIDIA GPU (process ${names.join(', ')}), and ${reason}`],
  };
}

interface Context {
  readonly deps: GpuDeps;
  readonly facts: ContainerFacts;
  readonly driver: GpuDriver;
  readonly tree: readonly ProcessFacts[];
  readonly request: GpuRequest;
}

async function findingsOf(context: Context, found: Discovery): Promise<GpuFindings> {
  const { deps, facts, driver, request } = context;
  const spec = parseSpec(facts.record.spec, `specification of ${facts.ref.namespace}/${facts.ref.id}`);
  const options = withAnnotations(request.options, spec);
  const devices = driver.devices();
  const inUse = driver.memoryInUse();
  const processes = found.cuda.map((one) => processOf(one, { deps, spec, devices, inUse }));
  const raises = planMemoryRaises(
    processes.map((process) => ({ hostPid: process.hostPid, bytes: saveBytes([process]) })),
    await limitsToPutBack(deps.settings, request.operationId),
  );
  const gates = gateReasons({
    processes,
    children: found.children,
    devices,
    inUse,
    ownHostPids: new Set(context.tree.map((process) => process.hostPid)),
    nameOf: (hostPid) => `process ${hostPid} (${readProcess(hostPid)?.command ?? 'of another pid namespace'})`,
    options,
    rehearsal: request.rehearsal,
    canScrub: canInject(),
    arch: arch(),
    availableMemoryBytes: freemem(),
    reservedMemoryBytes: await reservedMemory(deps.settings, request.operationId),
    reservedVram: await reservedVram(deps.settings, request.operationId, inUse),
    freezeBudgetMs: request.freezeBudgetMs,
  });
  return {
    plan: {
      driver: driver.version,
      processes: processes.map(({ traces: _traces, rehearsed: _rehearsed, ...process }) => process),
      children: found.children.map(identityOf),
      devices: devicesOf(processes, devices, inUse),
      vramBytes: processes.reduce((sum, process) => sum + process.vramBytes, 0),
      lockTimeoutMs: options.lockTimeoutMs,
      hugePages: options.hugePages,
      ...(options.quiesce === undefined ? {} : { quiesce: options.quiesce }),
      ...(options.resume === undefined ? {} : { resume: options.resume }),
      memoryRaises: raises.raises,
      reservedMemoryBytes: saveBytes(processes),
      estimatedRestoreMs: restoreEstimateMs(processes),
    },
    unsupported: [...found.reasons, ...gates.unsupported],
    refusals: [...gates.refusals, ...raises.refusals, ...hookRefusals(facts, options)],
    warnings: gates.warnings,
  };
}

function identityOf({ hostPid, nsPid, startTime, command }: ProcessFacts): GpuPlan['children'][number] {
  return { hostPid, nsPid, startTime, command };
}

interface Node {
  readonly deps: GpuDeps;
  readonly spec: OciSpec;
  readonly devices: readonly GpuDevice[];
  readonly inUse: readonly GpuMemoryUse[];
}

function processOf({ process, traces }: CudaProcess, { deps, spec, devices, inUse }: Node): GateProcess {
  const own = inUse.filter((use) => use.hostPid === process.hostPid && use.usedBytes > 0);
  const used = own.map((use) => use.uuid);
  return {
    ...identityOf(process),
    vramBytes: own.reduce((sum, use) => sum + use.usedBytes, 0),
    devices: [...new Set(used)],
    visible: visibleDevices({
      devices,
      used,
      openMinors: new Set(traces.fdsByMinor.keys()),
      nodeMinors: nodeMinorsOf(process.hostPid),
      rules: spec.linux?.resources?.devices ?? [],
    }),
    traces,
    rehearsed: hasPassedRehearsal(deps.settings, process),
  };
}

function devicesOf(
  processes: readonly GateProcess[],
  devices: readonly GpuDevice[],
  inUse: readonly GpuMemoryUse[],
): GpuPlan['devices'] {
  const visible = new Set(processes.flatMap((process) => process.visible));
  const pids = new Set(processes.map((process) => process.hostPid));
  return devices
    .filter((device) => visible.has(device.uuid))
    .map(({ uuid, name, minor, memoryTotalBytes, computeCapability }) => ({
      uuid,
      name,
      minor,
      memoryTotalBytes,
      computeCapability,
      usedBytes: inUse
        .filter((use) => use.uuid === uuid && pids.has(use.hostPid))
        .reduce((sum, use) => sum + use.usedBytes, 0),
    }));
}

function hookRefusals(facts: ContainerFacts, { quiesce, resume }: GpuOptions): string[] {
  const wanted = [quiesce, resume].some((hook) => hook?.command !== undefined);
  return wanted && facts.bundle === undefined
    ? [`runc does not know the container below ${facts.runcRoot}, so no hook can be run in it: use a signal, or none`]
    : [];
}
