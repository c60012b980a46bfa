/*
 * Everything about a running container that an operation needs to know, read once, before anything is touched. Plain
 * JSON: it travels to the runner in plan.json.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerTarget } from '../core/contract/common.ts';
import { KybernateError } from '../core/errors.ts';
import { DOCKER_NAMESPACE } from '../core/ids.ts';
import { parseSpec } from '../core/oci/spec.ts';
import type { ContainerRecord, TaskRecord, TaskStatus } from '../native/containerd/containerd.ts';
import { runcRoot } from '../native/containerd/runc-options.ts';
import { cgroupPids, freezerCgroup } from '../native/proc/cgroup.ts';
import { namespaceInode } from '../native/proc/ns.ts';
import { processTree, readProcess, type ProcessInfo } from '../native/proc/tree.ts';
import { readRuncState } from '../native/runc/runc.ts';
import type { ContainerFacts, ContainerId, ProcessFacts } from './container-facts.ts';
import {
  CRI_KIND,
  imageOf,
  mountsOf,
  networkOf,
  POD_CONTAINER,
  POD_NAME,
  POD_NAMESPACE,
  podOf,
  rootOf,
  stdioOf,
} from './inspect-parts.ts';
import { dockerFacts, resolveDocker } from './docker/source.ts';
import type { NodeDeps } from './node-deps.ts';
import { securityOf } from '../native/proc/security.ts';

export type { ContainerFacts, ContainerId, MountFacts, ProcessFacts } from './container-facts.ts';

/**
 * Which container is meant. A restarted container of a pod leaves its forerunners' records behind: the one that runs
 * is taken.
 *
 * @throws ContainerNotFound; ContainerNotRunning when a pod's container has no running task
 */
export async function resolveContainer(deps: NodeDeps, target: ContainerTarget): Promise<ContainerId> {
  const { pod, docker } = target;
  if (docker !== undefined) {
    return resolveDocker(deps, docker);
  }
  if (pod === undefined) {
    const ref = { namespace: target.namespace ?? 'default', id: target.id ?? '' };
    await requireRecord(deps, ref);
    return ref;
  }
  const namespace = target.namespace ?? 'k8s.io';
  const wanted = { [POD_NAMESPACE]: pod.namespace, [POD_NAME]: pod.name, [POD_CONTAINER]: pod.container };
  const filter = Object.entries(wanted).map(([label, value]) => `labels."${label}"==${JSON.stringify(value)}`);
  const records = (await deps.containerd.listContainers(namespace, [filter.join(',')])).filter(
    (record) => record.labels[CRI_KIND] !== 'sandbox',
  );
  const name = `${pod.namespace}/${pod.name}/${pod.container}`;
  if (records.length === 0) {
    throw new KybernateError(
      'ContainerNotFound',
      `no container ${name} in containerd namespace ${namespace} of ${deps.settings.node}`,
    );
  }
  for (const record of records) {
    const task = await deps.containerd.getTask(namespace, record.id);
    if (task !== undefined && task.status !== 'stopped') {
      return { namespace, id: record.id };
    }
  }
  throw new KybernateError(
    'ContainerNotRunning',
    `container ${name} on ${deps.settings.node} is not running (${records.map((record) => record.id).join(', ')})`,
  );
}

/** @throws ContainerNotFound, ContainerNotRunning, Incompatible (no freezer, specification not readable) */
export async function inspectContainer(deps: NodeDeps, ref: ContainerId): Promise<ContainerFacts> {
  const made = await requireRecord(deps, ref);
  const task = await requireRunning(deps, ref);
  const init = readProcess(task.pid);
  const freezer = freezerCgroup(task.pid);
  if (init === undefined) {
    throw notRunning(ref, `its process ${task.pid} is gone`);
  }
  if (freezer === undefined) {
    throw new KybernateError('Incompatible', `container ${nameOf(ref)} is in no cgroup with a freezer`);
  }
  const root = runcRoot(ref.namespace, made.runtime.options);
  const bundle = (await readRuncState(root, ref.id))?.bundle;
  const record = { ...made, spec: await specInUse(made, bundle) };
  const spec = parseSpec(record.spec, `specification of ${nameOf(ref)}`);
  return {
    ref,
    record,
    initHostPid: init.hostPid,
    initStartTime: init.startTime,
    ...(await processesOf(init, freezer.path)),
    freezer,
    runcRoot: root,
    ...(bundle === undefined ? {} : { bundle }),
    networkNamespace: networkOf(spec, init.hostPid),
    stdio: stdioOf(spec, task, init.hostPid),
    mounts: mountsOf(spec),
    security: securityOf(init.hostPid),
    ...(await rootOf(deps, ref, record, init.hostPid)),
    ...(await imageOf(deps, ref, record)),
    ...(await ofDocker(deps, ref)),
    ...podOf(record),
  };
}

/** Its image and configuration are Docker's to tell. */
async function ofDocker({ docker }: NodeDeps, ref: ContainerId): Promise<Pick<ContainerFacts, 'docker' | 'image'>> {
  if (docker === undefined || ref.namespace !== DOCKER_NAMESPACE) {
    return {};
  }
  const facts = await dockerFacts(docker, ref.id);
  return { docker: facts, image: { ref: facts.image.ref, digest: facts.image.id, configDigest: facts.image.id } };
}

/** What stands between containerd and runc may have edited it: the NVIDIA runtime does, and our own wrapper. */
async function specInUse(record: ContainerRecord, bundle: string | undefined): Promise<string> {
  if (bundle === undefined || bundle === '') {
    return record.spec;
  }
  // Absent: the bundle was made by something that removes it, or lies in a mount namespace of its own.
  return readFile(join(bundle, 'config.json'), 'utf8').catch(() => record.spec);
}

async function requireRecord(deps: NodeDeps, ref: ContainerId): Promise<ContainerRecord> {
  const record = await deps.containerd.getContainer(ref.namespace, ref.id);
  if (record === undefined) {
    throw new KybernateError(
      'ContainerNotFound',
      `no container ${ref.id} in containerd namespace ${ref.namespace} of ${deps.settings.node}`,
      { details: { ...ref, node: deps.settings.node } },
    );
  }
  return record;
}

/** Why a container with this task, or without one, cannot be checkpointed. */
const NOT_RUNNING: Readonly<Record<Exclude<TaskStatus, 'running'>, string>> = {
  created: 'it was created but not started',
  stopped: 'it has ended',
  paused: 'somebody else has paused it; resume it first',
  pausing: 'somebody else is pausing it; resume it first',
  unknown: 'containerd does not know the state of its task',
};

async function requireRunning(deps: NodeDeps, ref: ContainerId): Promise<TaskRecord> {
  const task = await deps.containerd.getTask(ref.namespace, ref.id);
  if (task === undefined) {
    throw notRunning(ref, 'it has no task: it was never started, or its task was deleted');
  }
  if (task.status !== 'running') {
    throw notRunning(ref, NOT_RUNNING[task.status]);
  }
  return task;
}

function notRunning(ref: ContainerId, why: string): KybernateError {
  return new KybernateError('ContainerNotRunning', `container ${nameOf(ref)} does not run: ${why}`, {
    details: { ...ref },
  });
}

function nameOf(ref: ContainerId): string {
  return `${ref.namespace}/${ref.id}`;
}

type Processes = Pick<ContainerFacts, 'processes' | 'foreignHostPids'>;

const ENTER_LOOKS = 20;
const ENTER_LOOK_MS = 25;

/** What comes in by exec is in the cgroup for a moment before it is in the pid namespace, and is no stranger then. */
async function processesOf(init: ProcessInfo, cgroup: string): Promise<Processes> {
  for (let look = 1; ; look += 1) {
    const found = processesIn(init, cgroup);
    if (found.foreignHostPids.length === 0 || look === ENTER_LOOKS) {
      return found;
    }
    await sleep(ENTER_LOOK_MS);
  }
}

function processesIn(init: ProcessInfo, cgroup: string): Processes {
  const initNamespace = namespaceInode(init.hostPid, 'pid');
  const shared = initNamespace === namespaceInode('self', 'pid');
  const tree = processTree(init.hostPid, cgroupPids(cgroup));
  const inside = new Set([init.hostPid]);
  const foreignHostPids: number[] = [];
  const processes = tree.flatMap((process): ProcessFacts[] => {
    if (inside.has(process.parentHostPid)) {
      inside.add(process.hostPid);
    }
    const entered = !inside.has(process.hostPid);
    // with the host's pid namespace only descent tells; a nested namespace is a descendant's
    const foreign = entered && (shared || namespaceInode(process.hostPid, 'pid') !== initNamespace);
    if (foreign) {
      foreignHostPids.push(process.hostPid);
      return [];
    }
    return [{ ...process, entered }];
  });
  return { processes, foreignHostPids };
}
