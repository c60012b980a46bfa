/* What pods leave on a node while they run, and what they must not leave behind: compared before and after. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

import { readProcStat } from '../../cli/dev/process.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Cluster } from './cluster.ts';
import { hostPaths, TEMPORAL_VARIABLES } from './install.ts';

export type NodeTraces = Readonly<Record<string, readonly string[]>>;

const CGROUPS = '/sys/fs/cgroup';
/** USER_HZ of every Linux of 64 bits. */
const TICKS = 100;
/** Probes, and what else is over soon, are younger. */
export const LASTING_S = 20;
/** One file a pod's container, for a day: a restart is not to rewind it. And code that Node has compiled. */
const KEPT = ['pod-starts', 'compile-cache', 'sidecar'];

/** What is there now and was not before; where something is there several times, how often more. */
export function newTraces(before: NodeTraces, now: NodeTraces): NodeTraces {
  const more = Object.entries(now).map(([kind, list]): [string, string[]] => {
    const known = [...(before[kind] ?? [])];
    const fresh = list.filter((name) => {
      const at = known.indexOf(name);
      known.splice(at, at < 0 ? 0 : 1);
      return at < 0;
    });
    return [kind, fresh];
  });
  return Object.fromEntries(more.filter(([, list]) => list.length > 0));
}

/** Each thing by its name, sorted. @param olderThanS age of a process that counts */
export async function nodeTraces(cluster: Cluster, olderThanS: number): Promise<NodeTraces> {
  const { paths, containerd } = cluster;
  const { runDir, stateDir } = hostPaths(cluster);
  const ctr = async (...args: string[]): Promise<string[]> => {
    const text = await containerd.ctrOk(['-n', 'k8s.io', ...args]);
    return text
      .split('\n')
      .slice(1)
      .map((line) => line.split(/\s+/)[0] ?? '')
      .filter((name) => name !== '')
      .sort();
  };
  const links = await runExeca('ip', ['-brief', 'link'], { timeoutMs: 10_000 });
  return {
    containers: await ctr('containers', 'ls'),
    tasks: await ctr('tasks', 'ls'),
    snapshots: await ctr('snapshots', 'ls'),
    leases: await ctr('leases', 'ls'),
    mounts: mountsBelow(cluster.hostPid(), paths.dir),
    cgroups: cgroupsBelow(paths.cgroupRoot),
    // A network namespace that is left keeps its end of this pair.
    interfaces: links.stdout
      .split('\n')
      .map((line) => line.split(/[@\s]/)[0] ?? '')
      .filter((name) => name.startsWith('veth'))
      .sort(),
    addresses: names(join(paths.dir, 'cni-data/pods')).filter((name) => /^\d/.test(name)),
    pods: names(join(paths.kubeletDir, 'pods')),
    run: ['operations', 'leases', 'wishes', 'locks'].flatMap((name) => below(join(runDir, name))),
    state: names(stateDir)
      .filter((name) => !KEPT.includes(name))
      .flatMap((name) => below(join(stateDir, name))),
    processes: processesOf(paths.dir, olderThanS),
    workflows: await runningWorkflows(),
  };
}

/** Their types. The lock of a container outlives its operations for a while, in which the next one would find it. */
async function runningWorkflows(): Promise<string[]> {
  const { TEMPORAL_ADDRESS: address, TEMPORAL_NAMESPACE: namespace } = TEMPORAL_VARIABLES;
  const query = 'ExecutionStatus = "Running" AND WorkflowType != "containerLock"';
  const flags = ['--address', address, '--namespace', namespace, '--query', query, '--limit', '1000', '-o', 'jsonl'];
  const result = await runExeca(requireProgram('temporal', process.env), ['workflow', 'list', ...flags], {
    timeoutMs: 30_000,
  });
  if (result.exitCode !== 0) {
    throw new Error(`temporal workflow list: ${result.startError ?? result.stderr}`);
  }
  return result.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { type: { name: string } }).type.name)
    .sort();
}

/** Resident memory of the node worker, which has the agent's socket, too. */
export function nodeWorkerBytes(cluster: Cluster): number {
  const { installDir } = hostPaths(cluster);
  for (const pid of names('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      if (args[0]?.startsWith(installDir) === true && args.slice(-3, -1).join(' ') === 'worker node') {
        return Number(/^VmRSS:\s*(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
      }
    } catch {
      // It has ended.
    }
  }
  throw new Error('no node worker runs');
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    // Nobody has made it.
    return [];
  }
}

function below(dir: string): string[] {
  return names(dir).map((name) => `${basename(dir)}/${name}`);
}

function mountsBelow(pid: number, dir: string): string[] {
  return readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((place) => place.startsWith(dir))
    .sort();
}

function cgroupsBelow(root: string): string[] {
  const hierarchies = names(CGROUPS).includes('cgroup.controllers') ? [''] : names(CGROUPS);
  return hierarchies.flatMap((hierarchy) => {
    try {
      return readdirSync(join(CGROUPS, hierarchy, root), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(entry.parentPath, entry.name))
        .sort();
    } catch {
      // A hierarchy without groups, or one in which somebody removes his right now.
      return [];
    }
  });
}

/** Programs that were started for this cluster, as often as they run. */
function processesOf(dir: string, olderThanS: number): string[] {
  const up = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]);
  return names('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        const seconds = up - Number(readProcStat(Number(pid))?.startTicks) / TICKS;
        return args.includes(dir) && seconds > olderThanS ? [basename(args.split('\0')[0] ?? '')] : [];
      } catch {
        // It has ended.
        return [];
      }
    })
    .sort();
}
