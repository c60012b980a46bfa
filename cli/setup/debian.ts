/*
 * Programs of Debian packages that tests run, unpacked into the cache: installed, Docker would start a service, and the
 * machine's own runc or containerd would be another one. Libraries that the machine may lack are unpacked beside them.
 */
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { runLong } from './long-command.ts';
import { packageDir, type ProgramSpec } from './programs.ts';
import type { Installation } from './step.ts';

/** Package to its upstream version; apt takes the newest build of it. */
export type DebianBundle = Readonly<Record<string, string>>;

/**
 * Fetches the packages by apt, which checks their signatures, and unpacks them below the folder of the program.
 * Crash: they are unpacked in a folder beside it, which is renamed when all are there.
 * @throws Incompatible with apt's last lines; the archive may have gone on to another version
 */
export async function unpackDebian(spec: ProgramSpec, bundle: DebianBundle, installation: Installation): Promise<void> {
  const { env, logFile, progress } = installation;
  const target = packageDir(spec, env);
  const making = `${target}.new`;
  const files = join(making, 'packages');
  rmSync(making, { recursive: true, force: true });
  mkdirSync(files, { recursive: true });
  const wanted = Object.entries(bundle).map(([name, version]) => `${name}=${version}*`);
  // Its own user may not write into root's folder.
  const apt = ['-o', 'APT::Sandbox::User=root', '--quiet'];
  const fetch = ['/bin/sh', '-c', 'cd "$0" && exec apt-get "$@"', files, ...apt, 'download', ...wanted] as const;
  const onLine = (line: string): void => progress(line.slice(0, 60));
  try {
    await runLong(fetch, { env, logFile, onLine });
  } catch {
    // No package lists, or old ones; what is wrong otherwise is wrong the second time too.
    await runLong(['apt-get', '--quiet', 'update'], { env, logFile, onLine });
    await runLong(fetch, { env, logFile, onLine });
  }
  const names = readdirSync(files);
  if (names.length < wanted.length) {
    throw new KybernateError('Incompatible', `apt brought ${names.join(', ')} of ${wanted.join(', ')}; see ${logFile}`);
  }
  for (const name of names) {
    progress(`unpacking ${name}`);
    await runLong(['dpkg-deb', '--extract', join(files, name), making], { env, logFile });
  }
  rmSync(files, { recursive: true });
  rmSync(target, { recursive: true, force: true });
  renameSync(making, target);
}

/** For LD_LIBRARY_PATH of its programs. */
export function librariesOf(spec: ProgramSpec, env: Installation['env']): string {
  const machine = process.arch === 'x64' ? 'x86_64-linux-gnu' : 'aarch64-linux-gnu';
  return ['usr/lib', 'lib'].map((dir) => join(packageDir(spec, env), dir, machine)).join(':');
}
