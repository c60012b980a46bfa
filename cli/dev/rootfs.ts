/*
 * Root file systems made from this machine's own Debian files: programs with the shared libraries that ldd names, a
 * busybox shell, and the few files that programs expect. /bin, /sbin and /lib are links into /usr as on the host.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { chmod, copyFile, mkdir, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { runExeca } from '../../native/run/run-execa.ts';

const USR_LINKS = ['bin', 'sbin', 'lib', 'lib64'] as const;
const DIRS = [
  'dev',
  'proc',
  'sys',
  'run',
  'root',
  'data',
  'tmp',
  'var/log',
  'var/lib',
  'etc',
  'usr/local/bin',
] as const;
const FILES: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n',
  'etc/group': 'root:x:0:\nnogroup:x:65534:\n',
  'etc/hosts': '127.0.0.1 localhost\n',
  'etc/hostname': 'kybernate\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
};

/** Path inside the image: the host's merged-usr links are followed, so /lib/x and /usr/lib/x are one file. */
export function imagePath(hostPath: string): string {
  const top = hostPath.split('/')[1] ?? '';
  return USR_LINKS.some((name) => name === top) ? `/usr${hostPath}` : hostPath;
}

/** Shared libraries of some ELF files, absolute and sorted; a static program has none. */
export async function sharedLibraries(files: readonly string[]): Promise<string[]> {
  const result = await runExeca('ldd', files, { timeoutMs: 60_000, maxOutputBytes: 4 * 1024 * 1024 });
  if (result.startError !== undefined) {
    throw new KybernateError('Incompatible', `ldd cannot be started (${result.startError}); it comes with libc-bin`);
  }
  const missing = /^\s*(\S+) => not found/m.exec(result.stdout)?.[1];
  if (missing !== undefined) {
    throw new KybernateError('Incompatible', `shared library ${missing} of ${files.join(', ')} is not on this machine`);
  }
  const paths = [...result.stdout.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map((match) => match[1] ?? '');
  return [...new Set(paths)].sort();
}

/** Regular files below a directory, sorted, without the folders that `skip` names at any depth. */
export function filesBelow(dir: string, skip: ReadonlySet<string>): string[] {
  return readdirSync(dir, { withFileTypes: true })
    .sort((left, right) => (left.name < right.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(dir, entry.name);
      if (skip.has(entry.name)) {
        return [];
      }
      if (entry.isDirectory()) {
        return filesBelow(path, skip);
      }
      // A link may point into /etc or to a folder that is not in the image: only what it leads to counts.
      return statSync(path, { throwIfNoEntry: false })?.isFile() === true ? [path] : [];
    });
}

export interface RootfsPlan {
  /** host files, each copied to `imagePath` of itself with its mode, unless `names` says where to */
  readonly files: readonly string[];
  /** host file → image path */
  readonly names: Readonly<Record<string, string>>;
  /** image path → link target */
  readonly links: Readonly<Record<string, string>>;
}

/** Host files and their libraries as one sorted list. */
export async function withLibraries(programs: readonly string[], others: readonly string[] = []): Promise<string[]> {
  const objects = [...programs, ...others.filter((path) => /\.so(\.\d+)*$/.test(path))];
  return [...new Set([...programs, ...others, ...(await sharedLibraries(objects))])].sort();
}

async function busyboxLinks(busybox: string): Promise<Record<string, string>> {
  const result = await runExeca(busybox, ['--list'], { timeoutMs: 10_000 });
  const applets = result.stdout.split('\n').filter((name) => /^[a-z0-9[._-]+$/.test(name) && name !== 'busybox');
  if (!applets.includes('sh')) {
    throw new KybernateError('Incompatible', `${busybox} has no shell: ${result.startError ?? result.stderr}`);
  }
  return Object.fromEntries(applets.map((name) => [`/usr/bin/${name}`, imagePath(busybox)]));
}

/** Debian's busybox: in /usr/bin, or in /bin where /usr is not merged. */
export function hostFile(...candidates: readonly string[]): string {
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new KybernateError('Incompatible', `${candidates.join(' or ')} is not there; run \`kybernate setup\``);
  }
  return path;
}

/** The plan of an image: busybox with all its applets, and the given host files. */
export async function planRootfs(
  files: readonly string[],
  names: Readonly<Record<string, string>> = {},
): Promise<RootfsPlan> {
  const busybox = hostFile('/usr/bin/busybox', '/bin/busybox');
  const own = await withLibraries([busybox]);
  const all = [...new Set([...own, ...files])].sort();
  const present = new Set(all.map((file) => names[file] ?? imagePath(file)));
  const applets = Object.entries(await busyboxLinks(busybox)).filter(([path]) => !present.has(path));
  return { files: all, names, links: Object.fromEntries(applets) };
}

/** Copies the plan into an empty directory. Modes are kept, owners and times are left to the archive. */
export async function writeRootfs(plan: RootfsPlan, root: string): Promise<void> {
  for (const name of USR_LINKS) {
    await mkdir(join(root, 'usr', name), { recursive: true });
    await symlink(join('usr', name), join(root, name));
  }
  for (const dir of DIRS) {
    await mkdir(join(root, dir), { recursive: true });
  }
  await chmod(join(root, 'tmp'), 0o1777);
  for (const [path, content] of Object.entries(FILES)) {
    await writeFile(join(root, path), content, { mode: 0o644 });
  }
  const made = new Set<string>();
  for (const file of plan.files) {
    const target = join(root, plan.names[file] ?? imagePath(file));
    if (!made.has(dirname(target))) {
      await mkdir(dirname(target), { recursive: true });
      made.add(dirname(target));
    }
    await copyFile(file, target);
    await chmod(target, statSync(file).mode & 0o755);
  }
  for (const [path, target] of Object.entries(plan.links)) {
    await symlink(dirname(path) === dirname(target) ? basename(target) : target, join(root, path));
  }
}
