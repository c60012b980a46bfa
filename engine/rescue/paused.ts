/* Containers that stand still although no operation of this node holds them. */
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { cgroupPids } from '../../native/proc/cgroup.ts';
import { listProcesses } from '../../native/proc/tree.ts';
import { freezerState, thaw, type FreezerCgroup } from '../freezer.ts';
import { listOperations, readPlan } from '../operation.ts';
import type { Finding, RescueDeps } from './finding.ts';

const FREEZERS = { v1: '/sys/fs/cgroup/freezer', v2: '/sys/fs/cgroup' } as const;
/** Deeper than Kubernetes and systemd nest. */
const MAX_DEPTH = 12;

/** Paused by `docker pause`, `ctr pause` or the kubelet, or left: only who is named is let go. */
export async function pausedFindings({ settings, containerd }: RescueDeps): Promise<readonly Finding[]> {
  const planned = new Set<string>();
  for (const operationId of await listOperations(settings)) {
    planned.add(readPlan(settings, operationId)?.facts.freezer.path ?? '');
  }
  return frozenCgroups()
    .filter(({ path }) => !planned.has(path))
    .map((cgroup) => ({
      kind: 'container',
      id: cgroup.path,
      container: basename(cgroup.path),
      state: 'on purpose',
      detail: `frozen, with pids ${cgroupPids(cgroup.path).join(', ')}, and no operation of this node knows it`,
      remedy: `if nobody has paused it: \`kybernate rescue ${basename(cgroup.path)} --apply\``,
      repair: () => letGo(cgroup, containerd),
    }));
}

/** By containerd, which else goes on to call it paused, and then neither resumes nor pauses it. */
async function letGo(cgroup: FreezerCgroup, containerd: RescueDeps['containerd']): Promise<string> {
  const shim = shimOf(cgroup.path);
  const failed: string[] = [];
  if (shim !== undefined) {
    const client = containerd(shim.address);
    try {
      for (const id of new Set([shim.id, idOf(cgroup.path)])) {
        try {
          await client.resumeTask(shim.namespace, id);
          return `containerd has resumed ${shim.namespace}/${id}; its freezer is ${freezerState(cgroup)}`;
        } catch (error) {
          failed.push(messageOf(error));
        }
      }
    } finally {
      client.close();
    }
  }
  await thaw(cgroup);
  const doubt = failed.length === 0 ? '' : `; containerd did not resume it (${failed[0]}) and may still call it paused`;
  return `its freezer is ${freezerState(cgroup)}${doubt}`;
}

/** The shim is the parent of the container's first process, and says in its arguments whose it is. */
function shimOf(
  path: string,
): { readonly namespace: string; readonly id: string; readonly address: string } | undefined {
  const inside = cgroupPids(path);
  const processes = new Map(listProcesses().map((process) => [process.hostPid, process]));
  for (const pid of inside) {
    const words = processes.get(processes.get(pid)?.parentHostPid ?? 0)?.commandLine.split(' ') ?? [];
    const value = (flag: string): string | undefined =>
      words.includes(flag) ? words[words.indexOf(flag) + 1] : undefined;
    const [namespace, id, address] = [value('-namespace'), value('-id'), value('-address')];
    if (
      words[0]?.includes('containerd-shim') === true &&
      namespace !== undefined &&
      id !== undefined &&
      address !== undefined
    ) {
      return { namespace, id, address };
    }
  }
  return undefined;
}

/** Containers of a pod share the shim of its sandbox: `cri-containerd-<id>.scope`, or the id itself. */
function idOf(path: string): string {
  return basename(path)
    .replace(/^.*-(?=[^-]+\.scope$)/, '')
    .replace(/\.scope$/, '');
}

/** Outermost ones: what is below them is frozen with them. */
export function frozenCgroups(): readonly FreezerCgroup[] {
  const found: FreezerCgroup[] = [];
  const visit = (cgroup: FreezerCgroup, depth: number): void => {
    if (depth > 0 && ['frozen', 'freezing'].includes(stateOrGone(cgroup)) && cgroupPids(cgroup.path).length > 0) {
      found.push(cgroup);
      return;
    }
    if (depth < MAX_DEPTH) {
      subdirectories(cgroup.path).forEach((path) => visit({ ...cgroup, path }, depth + 1));
    }
  };
  visit({ version: 1, path: FREEZERS.v1 }, 0);
  if (found.length === 0) {
    visit({ version: 2, path: FREEZERS.v2 }, 0);
  }
  return found;
}

function stateOrGone(cgroup: FreezerCgroup): string {
  try {
    return freezerState(cgroup);
  } catch {
    // A cgroup without that file, or one that may not be read: nothing of ours is frozen by it.
    return 'gone';
  }
}

function subdirectories(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(dir, entry.name));
  } catch {
    // It ended between two looks, or this hierarchy is not mounted.
    return [];
  }
}
