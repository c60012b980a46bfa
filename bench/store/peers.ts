/* What the store is compared with: programs of Debian, at the same compression level, on the same files. */
import { execFile } from 'node:child_process';
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ZSTD_LEVEL } from '../../store/codec.ts';

const run = promisify(execFile);
const RESTIC_ENV = { RESTIC_PASSWORD: 'bench' };

export interface Timed {
  readonly ms: number;
  readonly cpuMs: number;
  readonly storedBytes: number;
}

const PACKAGES = { tar: 'tar', zstd: 'zstd', restic: 'restic', 'redis-server': 'redis-server', python3: 'python3' };

/** @throws naming what is missing and how to install it */
export async function checkPrograms(): Promise<Record<string, string>> {
  const versions: Record<string, string> = {};
  for (const [program, debianPackage] of Object.entries(PACKAGES)) {
    const found = await run('sh', ['-c', 'command -v "$1"', 'sh', program]).catch(() => undefined);
    if (found === undefined) {
      throw new Error(`${program} is missing: apt-get install -y --no-install-recommends ${debianPackage}`);
    }
    versions[program] = debianPackage;
  }
  const list = ['-W', '-f', '${Package} ${Version}\n', ...Object.values(PACKAGES)];
  const { stdout } = await run('dpkg-query', list);
  for (const [name = '', version = ''] of stdout
    .trim()
    .split('\n')
    .map((line) => line.split(' '))) {
    versions[name] = version;
  }
  return versions;
}

/** One file, all processors. */
export async function tarZstd(dir: string, out: string): Promise<Timed> {
  await rm(out, { force: true });
  const timed = await timedShell(`tar -cf - -C "$1" . | zstd -q -T0 -${ZSTD_LEVEL} > "$2"`, [dir, out]);
  return { ...timed, storedBytes: (await stat(out)).size };
}

/** Into a new repository; making that is not counted. Restic compresses with zstd, and encrypts. */
export async function restic(dir: string, repo: string): Promise<Timed> {
  await rm(repo, { recursive: true, force: true });
  await mkdir(repo);
  await run('restic', ['-r', repo, 'init', '-q'], { env: { ...process.env, ...RESTIC_ENV } });
  const timed = await timedShell('restic -q --no-cache -r "$1" backup "$2"', [repo, dir]);
  const { stdout } = await run('du', ['-sb', join(repo, 'data')]);
  return { ...timed, storedBytes: Number(stdout.split('\t')[0]) };
}

/** Runs a line of bash. The processor time is that of all its children. */
export async function timedShell(line: string, args: readonly string[]): Promise<{ ms: number; cpuMs: number }> {
  const script = `TIMEFORMAT='%3U %3S'; set -o pipefail; time { ${line}; } 2>/dev/null`;
  const startedAt = performance.now();
  const { stderr } = await run('bash', ['-c', script, 'bash', ...args], { env: { ...process.env, ...RESTIC_ENV } });
  const ms = performance.now() - startedAt;
  const [user = 0, system = 0] = stderr.trim().split(' ').map(Number);
  return { ms, cpuMs: (user + system) * 1000 };
}
