import { KybernateError } from '../../core/errors.ts';
import type { Run } from '../run/run.ts';

/** The oldest CRIU that dumps inet sockets on kernels from 6.16 on, and whose config reaches it by runc. */
export const MIN_CRIU_VERSION = '4.2';

/** Positive when `left` is newer. Missing parts count as 0; what follows a dash is ignored. */
export function compareVersions(left: string, right: string): number {
  const parts = (version: string): number[] =>
    (version.split('-')[0] ?? '').split('.').map((part) => Number.parseInt(part, 10) || 0);
  const [a, b] = [parts(left), parts(right)];
  for (let index = 0; index < Math.max(a.length, b.length); index += 1) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) {
      return difference;
    }
  }
  return 0;
}

/** @returns for example `4.2.1` @throws Incompatible when the program does not run */
export async function criuVersion(run: Run, criuPath: string): Promise<string> {
  const result = await run(criuPath, ['--version'], { timeoutMs: 10_000 });
  const version = /^Version:\s*(\S+)/m.exec(result.stdout)?.[1];
  if (version === undefined) {
    const why = result.startError ?? (result.stderr.trim() || `exit code ${result.exitCode}`);
    throw new KybernateError(
      'Incompatible',
      `CRIU does not run as ${criuPath}: ${why}; \`kybernate setup\` installs it`,
    );
  }
  return version;
}

/** `criu check --feature`: what this CRIU can do on this kernel. @param feature for example `network_lock_nftables` */
export async function hasCriuFeature(run: Run, criuPath: string, feature: string): Promise<boolean> {
  const result = await run(criuPath, ['check', '--feature', feature], { timeoutMs: 20_000 });
  return result.exitCode === 0;
}
