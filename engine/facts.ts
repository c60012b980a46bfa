import { readFile } from 'node:fs/promises';
import { hostname, machine, release } from 'node:os';
import type { NodeFacts } from '../core/contract/checkpoint.ts';
import { driverVersionIn } from '../core/oci/driver-edits.ts';
import { criuVersion, hasCriuFeature } from '../native/criu/version.ts';
import { cgroupVersion } from '../native/proc/cgroup.ts';
import { locateProgram, runcVersion } from '../native/runc/runc.ts';
import { AT_MINSIGSTKSZ, auxiliaryValue } from '../native/proc/auxiliary.ts';
import type { NodeDeps } from './node-deps.ts';

/** What a question to a program of this node needs. */
export type ProgramDeps = Pick<NodeDeps, 'settings' | 'run'>;

/** Answers of programs, kept as long as the program's file is the same one: a set-up that replaces it is seen. */
const answers = new Map<string, Promise<unknown>>();

/** @param what names the question; a failed answer is not kept */
export async function askProgram<T>(
  deps: ProgramDeps,
  program: string,
  what: string,
  ask: () => Promise<T>,
): Promise<T> {
  const file = await locateProgram(program, deps.settings.programPath);
  if (file === undefined) {
    return ask();
  }
  const key = `${what}\0${file.identity}`;
  const kept = answers.get(key) as Promise<T> | undefined;
  if (kept !== undefined) {
    return kept;
  }
  const answer = ask();
  answers.set(key, answer);
  answer.catch(() => answers.delete(key));
  return answer;
}

/**
 * What this node is. containerd is asked every time, so an answer also says that it is there.
 * @throws Incompatible when CRIU or runc do not run; RuntimeUnavailable when containerd does not answer
 */
export async function probeNodeFacts(deps: NodeDeps): Promise<NodeFacts> {
  const { settings, run } = deps;
  const [facts, runc, containerdVersion] = await Promise.all([
    probeHostFacts(deps),
    askProgram(deps, settings.runcPath, 'version', () => runcVersion(run, settings.runcPath)),
    deps.containerd.version(),
  ]);
  return { ...facts, runcVersion: runc, containerdVersion };
}

/** The same without the programs of containers, which processes do not need. @throws Incompatible CRIU does not run */
export async function probeHostFacts(deps: ProgramDeps): Promise<NodeFacts> {
  const { settings, run } = deps;
  const [criu, cpu, gpuDriver] = await Promise.all([
    askProgram(deps, settings.criuPath, 'version', () => criuVersion(run, settings.criuPath)),
    cpuFacts(),
    nvidiaDriver(),
  ]);
  const signalFrameBytes = auxiliaryValue(AT_MINSIGSTKSZ);
  return {
    node: settings.node,
    hostname: hostname(),
    kernel: release(),
    arch: machine(),
    ...cpu,
    ...(signalFrameBytes === undefined ? {} : { signalFrameBytes }),
    cgroupVersion: cgroupVersion(),
    criuVersion: criu,
    runcVersion: '',
    containerdVersion: '',
    ...(gpuDriver === undefined ? {} : { gpuDriver }),
  };
}

/** Can CRIU lock connections by nftables on this kernel? Built without libnftables it cannot. */
export function canLockByNftables(deps: ProgramDeps): Promise<boolean> {
  const { criuPath } = deps.settings;
  const feature = 'network_lock_nftables';
  return askProgram(deps, criuPath, feature, () => hasCriuFeature(deps.run, criuPath, feature));
}

/** The first processor stands for all. `flags` on x86, `Features` on arm64. */
export function parseCpuinfo(text: string): Pick<NodeFacts, 'cpuModel' | 'cpuFlags' | 'cpuVendor'> {
  const field = (name: string): string | undefined => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1];
  const cpuVendor = field('vendor_id') ?? field('CPU implementer');
  return {
    cpuModel: field('model name') ?? field('CPU part') ?? 'unknown',
    cpuFlags: (field('flags') ?? field('Features') ?? '').split(' ').filter((flag) => flag !== ''),
    ...(cpuVendor === undefined ? {} : { cpuVendor }),
  };
}

async function cpuFacts(): Promise<ReturnType<typeof parseCpuinfo>> {
  return parseCpuinfo(await readFile('/proc/cpuinfo', 'utf8'));
}

async function nvidiaDriver(): Promise<string | undefined> {
  // absent: no driver is loaded
  const text = await readFile('/proc/driver/nvidia/version', 'utf8').catch(() => '');
  return driverVersionIn(text);
}
