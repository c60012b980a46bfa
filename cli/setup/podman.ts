/*
 * Podman from Debian, unpacked into the cache: installed, it would bring its units, iptables and newer system packages.
 *
 *   programs/podman-debian/root/        the packages that are not on the machine, unpacked
 *   programs/podman-debian/root/home/   policy.json, where Podman looks for a user's
 *   programs/podman-debian/bin/podman   starts it with the libraries and files from there
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { KybernateError, isKybernateError } from '../../core/errors.ts';
import { runLong } from './long-command.ts';
import { describeProgram, packageDir, PROGRAMS } from './programs.ts';
import type { Installation, Step } from './step.ts';

const LAUNCHER = `#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")/root
for dir in "$root"/usr/lib/*-linux-gnu*; do
  LD_LIBRARY_PATH="$dir\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH HOME="$root/home"
export CONTAINERS_REGISTRIES_CONF="\${CONTAINERS_REGISTRIES_CONF:-$root/etc/containers/registries.conf}"
conmon="$root/usr/bin/conmon"
[ -x "$conmon" ] || conmon=$(command -v conmon)
exec "$root/usr/bin/podman" --conmon "$conmon" "$@"
`;

/** Downloads podman and what it needs and the machine has not. */
async function download(dir: string, { env, logFile, progress }: Installation): Promise<string[]> {
  mkdirSync(join(dir, 'partial'), { recursive: true });
  const options = ['Dir::Cache::archives=' + dir, 'APT::Sandbox::User=root', 'Debug::NoLocking=1'];
  const flags = options.flatMap((option) => ['-o', option]);
  const get = [
    'apt-get',
    '--quiet',
    '--yes',
    '--no-install-recommends',
    '--download-only',
    ...flags,
    'install',
    'podman',
  ] as const;
  const run = {
    env: { ...env, DEBIAN_FRONTEND: 'noninteractive' },
    logFile,
    onLine: (line: string) => progress(line.slice(0, 60)),
  };
  try {
    await runLong(get, run);
  } catch (error) {
    if (!isKybernateError(error, 'Incompatible')) {
      throw error;
    }
    await runLong(['apt-get', '--quiet', 'update'], run);
    await runLong(get, run);
  }
  return readdirSync(dir)
    .filter((name) => name.endsWith('.deb'))
    .map((name) => join(dir, name));
}

/** Crash: a folder beside its place, which is renamed when all is there. */
async function install(installation: Installation): Promise<void> {
  const { env, logFile } = installation;
  const target = packageDir(PROGRAMS.podman, env);
  const making = `${target}.new`;
  const root = join(making, 'root');
  rmSync(making, { recursive: true, force: true });
  mkdirSync(root, { recursive: true });
  for (const file of await download(join(making, 'debs'), installation)) {
    await runLong(['dpkg-deb', '--extract', file, root], { env, logFile });
  }
  if (!existsSync(join(root, 'usr/bin/podman'))) {
    throw new KybernateError(
      'Incompatible',
      'apt-get did not bring podman; is another one installed that is not on PATH?',
    );
  }
  const policy = join(root, 'home/.config/containers');
  mkdirSync(policy, { recursive: true });
  const known = [join(root, 'etc/containers/policy.json'), '/etc/containers/policy.json'].find((path) =>
    existsSync(path),
  );
  if (known === undefined) {
    writeFileSync(join(policy, 'policy.json'), '{"default":[{"type":"insecureAcceptAnything"}]}\n');
  } else {
    copyFileSync(known, join(policy, 'policy.json'));
  }
  mkdirSync(join(making, 'bin'));
  writeFileSync(join(making, 'bin/podman'), LAUNCHER);
  chmodSync(join(making, 'bin/podman'), 0o755);
  rmSync(join(making, 'debs'), { recursive: true });
  rmSync(target, { recursive: true, force: true });
  renameSync(making, target);
}

export const PODMAN_STEP: Step = {
  name: 'podman',
  why: 'reads and writes checkpoint archives in the tests; unpacked into the cache, not installed',
  neededFor: ['test'],
  remedy: 'kybernate setup --for test, or put podman 4 or newer on PATH',
  check: async (env) => {
    const found = describeProgram('podman', env);
    return found === undefined ? { ok: false, detail: 'podman not there' } : { ok: true, detail: found.path };
  },
  install,
};
