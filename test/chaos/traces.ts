/*
 * Everything that operations can leave on a node, as a list of words that is the same before and after one: processes,
 * mounts, cgroups, rules, files, locks, and what containerd and the store keep. Numbers that change are left out.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { findShims, mountsBelow } from '../../cli/dev/containerd-traces.ts';
import { ownedProcesses } from '../../cli/dev/process.ts';
import { listTables } from '../../native/net/nft.ts';
import { listProcesses } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Job } from './jobs.ts';
import { type Rig, SERVICES } from './rig.ts';

const CGROUPS = '/sys/fs/cgroup';
const RUNC = '/run/containerd/runc';
const HEX_ID = /[0-9a-f]{32}/g;

/** @param checkpoints ids that are to lie on the node */
export async function traces(rig: Rig, jobs: readonly Job[], checkpoints: readonly string[]): Promise<string[]> {
  const lists = [
    processes(rig),
    mounts(rig),
    cgroups(rig),
    await rules(jobs),
    runFiles(rig),
    stateFiles(rig, checkpoints),
    await containerd(rig),
    uploads(rig),
  ];
  return lists.flat().sort();
}

/** What `after` has and `before` had not, and the reverse. */
export function difference(before: readonly string[], after: readonly string[]): string[] {
  const left = [...before];
  const more = after.filter((one) => {
    const at = left.indexOf(one);
    return at < 0 ? true : left.splice(at, 1).length === 0;
  });
  return [...more.map((one) => `+ ${one}`), ...left.map((one) => `- ${one}`)];
}

function list(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    // Absent: nothing lies there.
    return [];
  }
}

/** Everything that carries the rig's mark in its environment: services, shims, runners and what they start. */
function processes(rig: Rig): string[] {
  const services = new Set(SERVICES.map((name) => rig.pidOf(name)));
  const commands = new Map(listProcesses().map(({ hostPid, ...rest }) => [hostPid, rest]));
  const shims = new Map(findShims(rig.tools.address).map(({ pid, id }) => [pid, id]));
  return ownedProcesses(rig.dir).flatMap(({ pid }) => {
    const found = commands.get(pid);
    if (found === undefined || services.has(pid) || services.has(found.parentHostPid) || found.commandLine === '') {
      return [];
    }
    const words = shims.has(pid) ? `shim ${shims.get(pid)}` : found.commandLine.slice(0, 200);
    return isStandby(found.commandLine) ? [] : [`process ${words.replaceAll(HEX_ID, '<id>')}`];
  });
}

/** Of a worker that lives, or it ends by itself: its input is closed. */
function isStandby(commandLine: string): boolean {
  return /workers\/(runner|guard)\.[jt]s -$/.test(commandLine);
}

function mounts(rig: Rig): string[] {
  const below = [...mountsBelow(rig.dir), ...mountsBelow(join(RUNC, rig.namespace))];
  return below.map((path) => `mount ${path.replaceAll(HEX_ID, '<id>')}`);
}

/** Of cgroup v1 every controller has its own; of v2 there is one, the root. */
function hierarchies(): string[] {
  return existsSync(join(CGROUPS, 'cgroup.controllers')) ? ['.'] : list(CGROUPS);
}

function cgroups(rig: Rig): string[] {
  const operations = list(join(rig.runDir, 'operations'));
  const containers = hierarchies().flatMap((hierarchy) =>
    list(join(CGROUPS, hierarchy, rig.namespace))
      .filter((name) => existsSync(join(CGROUPS, hierarchy, rig.namespace, name, 'cgroup.procs')))
      .map((name) => `cgroup ${hierarchy}/${name}`),
  );
  const ours = rig.operationsSeen;
  operations.forEach((id) => ours.add(id));
  const left = hierarchies().flatMap((hierarchy) =>
    list(join(CGROUPS, hierarchy, 'kybernate'))
      .filter((name) => ours.has(name))
      .map((name) => `cgroup ${hierarchy}/kybernate/${name}`),
  );
  return [...containers, ...left];
}

async function rules(jobs: readonly Job[]): Promise<string[]> {
  const tables = await Promise.all(
    jobs
      .filter((job) => job.isAlive)
      .map(async (job) =>
        (await listTables(runExeca, job.initPid)).map(({ family, name }) => `table ${job.id}: ${family} ${name}`),
      ),
  );
  return tables.flat();
}

/** But for the log of the node's short-lived processes, which its worker collects. */
function runFiles(rig: Rig): string[] {
  const files = readdirSync(rig.runDir, { recursive: true, encoding: 'utf8' }).map((path) => `run ${path}`);
  // What runc itself leaves in there tells how the container was made: it goes with the container.
  const usual = new Set(['state.json', 'checkpoint', 'kybernate-restored']);
  const runc = list(join(RUNC, rig.namespace)).map((id) => {
    const more = list(join(RUNC, rig.namespace, id)).filter((name) => !usual.has(name));
    return `runc ${[id, ...more].join(' ')}`;
  });
  return [...files.filter((path) => !/^run (locks|peers|leases$|processes\.log)/.test(path)), ...runc].map((path) =>
    path.replaceAll(HEX_ID, '<id>'),
  );
}

/** Checkpoints are told by what is expected; logs of what failed are kept on purpose. */
function stateFiles(rig: Rig, checkpoints: readonly string[]): string[] {
  const expected = new Set(checkpoints.map((id) => `checkpoint-${id}`));
  const dir = join(rig.stateDir, 'checkpoints');
  const more = list(dir)
    .filter((name) => !expected.has(name))
    .map((name) => `checkpoints/${name}`);
  // A directory that is made at its first use is nothing that is left, what lies in it may be.
  const kept = new Set(['logs', 'failed', 'compile-cache', 'checkpoints']);
  const top = readdirSync(rig.stateDir, { withFileTypes: true })
    .filter(({ name }) => !kept.has(name))
    .flatMap((entry) =>
      entry.isDirectory() ? list(join(rig.stateDir, entry.name)).map((name) => `${entry.name}/${name}`) : [entry.name],
    )
    .map((path) => path.replaceAll(HEX_ID, '<id>'));
  return [...more, ...top].map((path) => `state ${path}`);
}

async function containerd(rig: Rig): Promise<string[]> {
  const ask = async (what: string, ...args: string[]): Promise<string[]> => {
    const text = await rig.tools.ctrOk(['-n', rig.namespace, ...args], 10_000);
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => `${what} ${line}`);
  };
  const containers = await rig.containerd.listContainers(rig.namespace, []);
  const used = new Set(containers.map(({ snapshotKey }) => snapshotKey));
  const snapshots = (await ask('snapshot', 'snapshots', 'ls'))
    .map((line) => line.split(/\s+/))
    .filter(([, key = '', ...rest]) => key !== 'KEY' && !used.has(key) && !rest.includes('Committed'))
    .map((words) => words.slice(0, 2).join(' '));
  return [
    ...(await ask('container', 'containers', 'ls', '-q')),
    ...(await ask('task', 'tasks', 'ls', '-q')),
    ...(await ask('lease', 'leases', 'ls', '-q')),
    ...snapshots,
  ];
}

/** Multipart uploads that nobody ends, where the store's server keeps them. */
function uploads(rig: Rig): string[] {
  const dir = join(rig.s3.bucketDir, '.sgwtmp');
  if (!existsSync(dir)) {
    return [];
  }
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => `upload ${relative(dir, join(entry.parentPath, basename(entry.name)))}`);
}

/** What a violation needs to be understood, as text. */
export function journals(rig: Rig): string {
  const dir = join(rig.runDir, 'operations');
  return list(dir)
    .flatMap((id) =>
      list(join(dir, id))
        .filter((name) => /\.(jsonl?|log)$/.test(name))
        .map((name) => join(dir, id, name)),
    )
    .map((file) => `== ${file}\n${readFileSync(file, 'utf8').slice(-4000)}`)
    .join('\n');
}
