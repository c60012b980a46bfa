/* Starts the embedded dev environment: containerd, Temporal, optionally S3, then the workers and the sidecar. Idempotent. */
import { chmodSync, mkdirSync } from 'node:fs';

import { isKybernateError } from '../../core/errors.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { stackDirs } from './containerd-client.ts';
import { startContainerd } from './containerd.ts';
import { writeDevDefaults } from './defaults.ts';
import {
  DEV_NAMESPACE,
  devPaths,
  type DevPaths,
  type DevServers,
  devVariables,
  shellQuote,
  withoutSettings,
} from './environment.ts';
import { type ImageName, importImages } from './images.ts';
import { withDevLock } from './lock.ts';
import { startS3 } from './s3.ts';
import { startTemporal } from './temporal.ts';
import { startWorkers } from './workers.ts';

export interface UpOptions {
  readonly env: Env;
  readonly node: string;
  /** `s3` starts the S3 server and uses it; default `dir` */
  readonly store?: 'dir' | 's3';
  /** imported into `namespace`; default: busybox and redis */
  readonly images?: readonly ImageName[];
  /** containerd namespace of the images and of ctr; default `default` */
  readonly namespace?: string;
  /** one line for each part that is ready */
  readonly note?: (text: string) => void;
}

export interface DevEnvironment extends DevServers {
  readonly paths: DevPaths;
  readonly node: string;
  /** settings for the CLI, ctr and the temporal CLI */
  readonly variables: Readonly<Record<string, string>>;
  /** path of ctr */
  readonly ctr: string;
  /** folders of ctr, runc, criu and the shim, for the front of a PATH */
  readonly programDirs: readonly string[];
}

async function timed<T>(what: string, note: (text: string) => void, work: () => Promise<T>): Promise<T> {
  const begin = performance.now();
  const value = await work();
  note(`ready: ${what} (${((performance.now() - begin) / 1000).toFixed(1)} s)`);
  return value;
}

async function startServers(paths: DevPaths, options: UpOptions, note: (text: string) => void): Promise<DevServers> {
  const { dir } = paths;
  const { env } = options;
  const base = withoutSettings(env);
  const [containerd, temporal, s3] = await Promise.all([
    timed('containerd', note, () => startContainerd({ dir, env: base, runDir: paths.runDir })),
    timed('Temporal', note, () => startTemporal({ dir, env: base, ui: true, wellKnownPorts: true })),
    options.store === 's3' ? timed('S3 server', note, () => startS3({ dir, env: base })) : undefined,
  ]);
  return { containerd, temporal, ...(s3 === undefined ? {} : { s3 }) };
}

/**
 * Starts what does not run yet and waits until all of it answers.
 * @throws Incompatible when a program is missing; Internal with the end of the log of the part that failed. What was
 * started stays up: the same call goes on, `down` removes it.
 */
export async function up(options: UpOptions): Promise<DevEnvironment> {
  const { env, node, note = () => undefined } = options;
  const paths = devPaths(env);
  return withDevLock(paths.dir, async () => {
    mkdirSync(paths.runDir, { recursive: true });
    chmodSync(paths.runDir, 0o711);
    for (const dir of [paths.stateDir, paths.storeDir]) {
      mkdirSync(dir, { recursive: true });
    }
    const servers = await startServers(paths, options, note);
    const variables = {
      ...devVariables(paths, node, servers, env),
      CONTAINERD_NAMESPACE: options.namespace ?? DEV_NAMESPACE,
    };
    const { containerd, temporal } = servers;
    await Promise.all([
      timed('images', note, () => importUpImages(servers, options, note)),
      timed('workers', note, () =>
        startWorkers({
          dir: paths.dir,
          node,
          temporal,
          env: { ...withoutSettings(env), ...variables, PATH: containerd.path },
        }),
      ),
    ]);
    writeDevDefaults(paths.dir, variables);
    const ctr = requireProgram('ctr', env);
    return { ...servers, paths, node, variables, ctr, programDirs: stackDirs(paths.dir, env) };
  });
}

async function importUpImages(servers: DevServers, options: UpOptions, note: (text: string) => void): Promise<void> {
  const names = options.images ?? (['docker.io/kybernate/busybox:1', 'docker.io/kybernate/redis:1'] as const);
  try {
    await importImages(servers.containerd, options.namespace ?? DEV_NAMESPACE, names, options.env);
  } catch (error) {
    // The environment serves without the default ones: they need Debian's programs, which only the examples use.
    if (options.images !== undefined || !isKybernateError(error, 'Incompatible')) {
      throw error;
    }
    note(error.message);
  }
}

/** Lines for a POSIX shell: `eval "$(kybernate up --env)"`. */
export function exportLines(environment: DevEnvironment): string[] {
  const own = environment.programDirs.join(':');
  return [
    ...Object.entries(environment.variables).map(([name, value]) => `export ${name}=${shellQuote(value)}`),
    `export PATH=${shellQuote(own)}:"$PATH"`,
  ];
}
