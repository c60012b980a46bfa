/*
 * The whole support matrix: builds the versions of runc, containerd and Podman that it compares, runs every cell and writes what came out to
 * test/matrix/results.json and docs/support.md.
 *
 * node tools/matrix.ts [<part of platform/runtime>]
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from '../cli/dev/paths.ts';
import { goInstall, type GoModule } from '../cli/setup/go-install.ts';
import { packageDir, PROGRAMS, type ProgramSpec } from '../cli/setup/programs.ts';
import { RESTORING_CONTAINERD, RUNC_VERSIONS } from '../test/harness/matrix-data.ts';
import { NEWER_PODMAN } from '../test/harness/podman.ts';

const { env } = process;
const [wanted = 'all'] = process.argv.slice(2);
const RUNC: GoModule = { packages: ['github.com/opencontainers/runc'], tags: 'seccomp' };
const CONTAINERD: GoModule = {
  packages: ['containerd', 'containerd-shim-runc-v2', 'ctr'].map(
    (name) => `github.com/containerd/containerd/v2/cmd/${name}`,
  ),
};
const PODMAN: GoModule = {
  module: 'github.com/containers/podman/v5',
  packages: ['github.com/containers/podman/v5/cmd/podman'],
  // Without the C libraries of what no test needs.
  tags: 'seccomp,containers_image_openpgp,exclude_graphdriver_btrfs',
};
const versions: ReadonlyArray<readonly [ProgramSpec, string, GoModule]> = [
  ...RUNC_VERSIONS.map((version) => [{ ...PROGRAMS.runc, version }, 'runc', RUNC] as const),
  [{ ...PROGRAMS.containerd, version: RESTORING_CONTAINERD }, 'containerd', CONTAINERD],
  [NEWER_PODMAN, 'podman', PODMAN],
];
for (const [spec, name, module] of versions) {
  if (!existsSync(join(packageDir(spec, env), spec.subdir, name))) {
    process.stdout.write(`building ${name} ${spec.version}\n`);
    const logFile = join(cacheDir(env), 'logs', `matrix-${name}-${spec.version}.log`);
    await goInstall(spec, module, { env, logFile, progress: () => undefined });
  }
}
const run = (...args: readonly string[]): number =>
  spawnSync(args[0] ?? '', args.slice(1), { stdio: 'inherit', env: { ...env, KYBERNATE_MATRIX: wanted } }).status ?? 1;
const failed = run('vitest', 'run', '--project', 'system', 'test/system/runtime-matrix.test.ts');
process.exitCode = run(process.execPath, 'tools/gen-docs.ts') || failed;
