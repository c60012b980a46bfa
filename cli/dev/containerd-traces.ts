/*
 * What a private containerd leaves outside its directory, and how each is removed: tasks and their cgroups (ctr, or
 * runc when containerd is dead), shims (they outlive containerd by design), mounts below the directory, shim sockets
 * in /run/containerd/s, empty per-namespace folders of runc and of the cgroup hierarchies.
 */
import { readdirSync, readFileSync, rmSync, rmdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';

import { messageOf } from '../../core/errors.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Containerd } from './containerd-client.ts';
import { endProcess, readProcStat } from './process.ts';
import { waitFor } from './wait.ts';

const RUNC_ROOT = '/run/containerd/runc';
const SHIM_SOCKETS = '/run/containerd/s';

export interface Shim {
  readonly pid: number;
  readonly startTicks: string;
  readonly namespace: string;
  readonly id: string;
}

interface Bundle {
  readonly namespace: string;
  readonly id: string;
  readonly dir: string;
}

function entries(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    // Absent: nothing was left there.
    return [];
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Gone between the listing and the read.
    return '';
  }
}

/** Shims of the containerd with this address, found by their own command line: they have no parent to ask. */
export function findShims(address: string): Shim[] {
  const shims: Shim[] = [];
  for (const entry of entries('/proc').filter((name) => /^\d+$/.test(name))) {
    const argv = readText(`/proc/${entry}/cmdline`).split('\0');
    const after = (flag: string): string => argv[argv.indexOf(flag) + 1] ?? '';
    if (!basename(argv[0] ?? '').startsWith('containerd-shim-') || !argv.includes('-address')) {
      continue;
    }
    // containerd's own call that cleans up after one that has died.
    if (argv.includes('delete')) {
      continue;
    }
    const stat = readProcStat(Number(entry));
    if (after('-address') === address && stat !== undefined && stat.state !== 'Z') {
      const shim = { pid: Number(entry), startTicks: stat.startTicks };
      shims.push({ ...shim, namespace: after('-namespace'), id: after('-id') });
    }
  }
  return shims;
}

function findBundles(dir: string): Bundle[] {
  const tasks = join(dir, 'state', 'io.containerd.runtime.v2.task');
  return entries(tasks).flatMap((namespace) =>
    entries(join(tasks, namespace)).map((id) => ({ namespace, id, dir: join(tasks, namespace, id) })),
  );
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}

/**
 * Kills and deletes every task, by containerd's own means while it answers.
 * @returns the namespaces that were seen
 */
export async function endTasks(containerd: Containerd): Promise<string[]> {
  const namespaces = new Set(
    [...findBundles(containerd.dir), ...findShims(containerd.address)].map((x) => x.namespace),
  );
  const listed = await containerd.ctr(['namespaces', 'ls', '-q'], 5000);
  if (listed.exitCode === 0) {
    for (const namespace of lines(listed.stdout)) {
      namespaces.add(namespace);
      const tasks = await containerd.ctr(['-n', namespace, 'tasks', 'ls', '-q'], 5000);
      // A failure is left to the second, rougher way: `removeTraces` looks at what is really there.
      await Promise.all(
        lines(tasks.stdout).map((id) => containerd.ctr(['-n', namespace, 'tasks', 'rm', '--force', id], 20_000)),
      );
    }
  }
  return [...namespaces];
}

/** The root that the shim gave to runc for this bundle. */
function runcRoot(bundle: Bundle): string {
  const root = /"root"\s*:\s*"([^"]+)"/.exec(readText(join(bundle.dir, 'options.json')))?.[1] ?? RUNC_ROOT;
  return join(root, bundle.namespace);
}

/** All containerds of a machine share runc's root: an id there may belong to another one's container. */
async function isOurs(containerd: Containerd, bundle: Bundle): Promise<boolean> {
  const args = ['--root', runcRoot(bundle), 'state', bundle.id];
  const result = await runExeca('runc', args, { env: { PATH: containerd.path }, timeoutMs: 10_000 });
  return result.exitCode === 0 && (JSON.parse(result.stdout) as { bundle?: string }).bundle === bundle.dir;
}

async function endByRunc(containerd: Containerd, bundle: Bundle): Promise<void> {
  if (await isOurs(containerd, bundle)) {
    await runExeca('runc', ['--root', runcRoot(bundle), 'delete', '--force', bundle.id], {
      env: { PATH: containerd.path },
      timeoutMs: 20_000,
    });
  }
  const address = /unix:\/\/([^"\s]+)/.exec(readText(join(bundle.dir, 'bootstrap.json')))?.[1];
  if (address?.startsWith(`${SHIM_SOCKETS}/`) === true) {
    rmSync(address, { force: true });
  }
}

/** Mount points at or below a directory, deepest first. */
export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replaceAll(/\\(\d{3})/g, (_, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      ),
    )
    .filter((path) => path === dir || path.startsWith(`${dir}/`))
    .sort((left, right) => right.length - left.length);
}

/** Unmounts everything at or below a directory; a busy mount is detached. Throws nothing: `mountsBelow` tells. */
export async function unmountBelow(dir: string): Promise<void> {
  for (let round = 0; round < 3 && mountsBelow(dir).length > 0; round += 1) {
    for (const path of mountsBelow(dir)) {
      await runExeca('umount', round === 0 ? [path] : ['--lazy', path], { timeoutMs: 10_000 });
    }
  }
}

function removeIfEmpty(dir: string): void {
  try {
    rmdirSync(dir);
  } catch {
    // Absent, or another containerd of this machine uses a namespace of the same name: then it stays.
  }
}

/** cgroup v1 has a hierarchy per controller, v2 one; folders two levels below the mount cover both. */
function removeEmptyCgroups(namespace: string): void {
  const base = '/sys/fs/cgroup';
  removeIfEmpty(join(base, namespace));
  for (const hierarchy of entries(base)) {
    const dir = join(base, hierarchy, namespace);
    if (statSync(dir, { throwIfNoEntry: false })?.isDirectory() === true) {
      entries(dir).forEach((name) => removeIfEmpty(join(dir, name)));
      removeIfEmpty(dir);
    }
  }
}

/** The second way: whatever still runs or is still mounted after containerd has ended. */
export async function removeTraces(containerd: Containerd, namespaces: readonly string[]): Promise<void> {
  // A shim whose task was deleted ends by itself, a moment later.
  try {
    await waitFor('end of the shims', 2000, () => findShims(containerd.address).length === 0);
  } catch (error) {
    if (!messageOf(error).startsWith('no end of the shims')) {
      throw error;
    }
  }
  for (const bundle of findBundles(containerd.dir)) {
    await endByRunc(containerd, bundle);
  }
  await Promise.all(findShims(containerd.address).map((shim) => endProcess(shim, 1000)));
  await unmountBelow(containerd.dir);
  for (const namespace of namespaces) {
    removeIfEmpty(join(RUNC_ROOT, namespace));
    removeEmptyCgroups(namespace);
  }
}
