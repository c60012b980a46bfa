/* Programs built by `go install` from published modules into the cache; Go checks every module against its checksum database. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { runLong } from './long-command.ts';
import { type Env, inDirs, packageDir, pathDirs, type ProgramSpec } from './programs.ts';
import type { Installation } from './step.ts';

export interface GoModule {
  /** without version; the packages are below it */
  readonly packages: readonly string[];
  readonly tags?: string;
  /**
   * Module of the packages: they are built as those of a dependency. For modules of which a proxy has versions and no list
   * of them, which `go install` asks for.
   */
  readonly module?: string;
}

/** Go from PATH, or from where its own instructions put it. */
export function findGo(env: Env): string | undefined {
  return inDirs('go', [...pathDirs(env), '/usr/local/go/bin'])[0];
}

/** What `go install -v` prints, as one line of progress. */
export function goProgress(): (line: string) => string {
  let downloaded = 0;
  let compiled = 0;
  return (line) => {
    const module = /^go: downloading (\S+)/.exec(line)?.[1];
    if (module !== undefined) {
      downloaded += 1;
      return `${downloaded} modules fetched, now ${module}`;
    }
    compiled += 1;
    return `${compiled} packages compiled, now ${line.trim()}`;
  };
}

/** Arguments of go. */
function buildOf(
  spec: ProgramSpec,
  { packages, module }: GoModule,
  making: string,
  flags: readonly string[],
): string[] {
  if (module === undefined) {
    return ['install', ...flags, ...packages.map((path) => `${path}@v${spec.version}`)];
  }
  const source = join(making, 'source');
  mkdirSync(source);
  writeFileSync(join(source, 'go.mod'), `module build.invalid\n\ngo 1.25\n\nrequire ${module} v${spec.version}\n`);
  return ['-C', source, 'build', '-mod=mod', '-o', `${join(making, spec.subdir)}/`, ...flags, ...packages];
}

/**
 * Builds the programs of one package folder.
 * Crash: they are built in a folder beside it, which is renamed when all are there.
 */
export async function goInstall(spec: ProgramSpec, module: GoModule, installation: Installation): Promise<void> {
  const { env, logFile, progress } = installation;
  const go = findGo(env);
  if (go === undefined) {
    throw new KybernateError('Incompatible', 'go is not on PATH; see tools/prerequisites.sh');
  }
  const target = packageDir(spec, env);
  const making = `${target}.new`;
  rmSync(making, { recursive: true, force: true });
  mkdirSync(join(making, spec.subdir), { recursive: true });
  const line = goProgress();
  const flags = ['-v', '-ldflags=-s -w', ...(module.tags === undefined ? [] : [`-tags=${module.tags}`])];
  await runLong([go, ...buildOf(spec, module, making, flags)], {
    env: {
      ...env,
      // runc sets up namespaces in C.
      CGO_ENABLED: '1',
      GOBIN: join(making, spec.subdir),
      // A workspace or vendor flag of the caller is about another program.
      GOWORK: 'off',
      GOFLAGS: '',
      PATH: `${dirname(go)}:${env['PATH'] ?? ''}`,
    },
    logFile,
    onLine: (text) => progress(line(text)),
  });
  rmSync(join(making, 'source'), { recursive: true, force: true });
  rmSync(target, { recursive: true, force: true });
  renameSync(making, target);
}
