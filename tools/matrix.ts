/*
 * The whole support matrix: builds the versions of runc that it compares, runs every cell and writes what came out to
 * test/matrix/results.json and docs/support.md.
 *
 * node tools/matrix.ts [<part of platform/runtime>]
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from '../cli/dev/paths.ts';
import { goInstall } from '../cli/setup/go-install.ts';
import { packageDir, PROGRAMS } from '../cli/setup/programs.ts';
import { RUNC_VERSIONS } from '../test/harness/matrix-data.ts';

const { env } = process;
const [wanted = 'all'] = process.argv.slice(2);
for (const version of RUNC_VERSIONS) {
  const spec = { ...PROGRAMS.runc, version };
  if (!existsSync(join(packageDir(spec, env), spec.subdir, 'runc'))) {
    process.stdout.write(`building runc ${version}\n`);
    const module = { packages: ['github.com/opencontainers/runc'], tags: 'seccomp' };
    const logFile = join(cacheDir(env), 'logs', `matrix-runc-${version}.log`);
    await goInstall(spec, module, { env, logFile, progress: () => undefined });
  }
}
const run = (...args: readonly string[]): number =>
  spawnSync(args[0] ?? '', args.slice(1), { stdio: 'inherit', env: { ...env, KYBERNATE_MATRIX: wanted } }).status ?? 1;
const failed = run('vitest', 'run', '--project', 'system', 'test/system/runtime-matrix.test.ts');
process.exitCode = run(process.execPath, 'tools/gen-docs.ts') || failed;
