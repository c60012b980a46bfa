/*
 * podman's export, a peer where podman is installed: a container that has the checkpoint's files as its own, written as a
 * tar. It neither compresses nor digests, so it is a peer for what reading and writing the files costs.
 */
import { execFile } from 'node:child_process';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { timedShell, type Timed } from './peers.ts';

const run = promisify(execFile);
const IMAGE = 'localhost/kybernate-bench';
const CONTAINER = 'kybernate-bench';

export interface Podman {
  readonly version: string;
  /** Writes the files as a tar to `out`. */
  export(out: string): Promise<Timed>;
}

/**
 * Makes a container of the files in `image`; its store is below `dir`, which the caller removes.
 * @returns undefined where podman is not installed
 */
export async function preparePodman(image: string, dir: string): Promise<Podman | undefined> {
  const found = await run('podman', ['version', '--format', '{{.Client.Version}}']).catch(() => undefined);
  if (found === undefined) {
    return undefined;
  }
  await mkdir(dir);
  const policy = join(dir, 'policy.json');
  await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
  const places = ['root', 'runroot', 'tmpdir'].flatMap((name) => [`--${name}`, join(dir, name)]);
  const options = [...places, '--storage-driver', 'vfs', '--cgroup-manager', 'cgroupfs'];
  const podman = (...args: string[]): Promise<unknown> =>
    run('podman', [...options, ...args], { env: { ...process.env, TMPDIR: dir } });
  const tar = join(dir, 'image.tar');
  await run('tar', ['-cf', tar, '-C', image, '.']);
  await podman('import', '--quiet', '--signature-policy', policy, tar, IMAGE);
  await rm(tar);
  await podman('create', '--network', 'none', '--name', CONTAINER, IMAGE, '/none');
  return {
    version: found.stdout.trim(),
    async export(out) {
      await rm(out, { force: true });
      const timed = await timedShell(`podman "\${@:2}" > "$1"`, [out, ...options, 'export', CONTAINER]);
      return { ...timed, storedBytes: (await stat(out)).size };
    },
  };
}
