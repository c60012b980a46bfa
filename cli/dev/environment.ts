/*
 * Where the embedded dev environment lies and which settings its workers, its shims and its users get. One directory
 * on disk, and one below /run for what must not survive a reboot (journals, locks, the agent's socket).
 */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { join } from 'node:path';

import { findKeeper } from '../setup/keeper.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { idOf } from '../../workers/accounts.ts';
import { devDir } from './paths.ts';
import type { Containerd } from './containerd-client.ts';
import type { S3Server } from './s3.ts';
import type { TemporalServer } from './temporal.ts';

export const DEV_NAMESPACE = 'default';

export interface DevPaths {
  readonly dir: string;
  /** KYBERNATE_RUN_DIR: on tmpfs, named after `dir` */
  readonly runDir: string;
  /** KYBERNATE_STATE_DIR: local copies of checkpoints */
  readonly stateDir: string;
  /** the directory store */
  readonly storeDir: string;
}

export function devPaths(env: Env): DevPaths {
  const dir = devDir(env);
  const key = createHash('sha256').update(dir).digest('hex').slice(0, 8);
  return { dir, runDir: `/run/kybernate-dev-${key}`, stateDir: join(dir, 'node'), storeDir: join(dir, 'store') };
}

export interface DevServers {
  readonly containerd: Containerd;
  readonly temporal: TemporalServer;
  readonly s3?: S3Server;
}

/** What workers, shims and the CLI need to know, by the names of workers/config.ts. */
export function devVariables(paths: DevPaths, node: string, servers: DevServers, env: Env): Record<string, string> {
  const { containerd, temporal, s3 } = servers;
  const keeper = findKeeper(env);
  return {
    KYBERNATE_NODE: node,
    KYBERNATE_STATE_DIR: paths.stateDir,
    KYBERNATE_RUN_DIR: paths.runDir,
    KYBERNATE_CONTAINERD_ADDRESS: containerd.address,
    KYBERNATE_RUNC: requireProgram('runc', env),
    KYBERNATE_CRIU: requireProgram('criu', env),
    ...(keeper === undefined ? {} : { KYBERNATE_KEEPER_DIR: keeper }),
    ...sidecarAccount(paths),
    KYBERNATE_STORE: s3 === undefined ? `file://${paths.storeDir}` : `s3://${s3.bucket}`,
    ...(s3 === undefined
      ? {}
      : {
          KYBERNATE_S3_ENDPOINT: s3.endpoint,
          KYBERNATE_S3_REGION: s3.region,
          AWS_ACCESS_KEY_ID: s3.accessKeyId,
          AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
        }),
    TEMPORAL_ADDRESS: temporal.address,
    TEMPORAL_NAMESPACE: temporal.namespace,
    ...(temporal.uiUrl === undefined ? {} : { KYBERNATE_UI: temporal.uiUrl }),
    CONTAINERD_ADDRESS: containerd.address,
    // Every call of ctr would print that cgroup v1 goes away one day.
    CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1',
  };
}

/** Above what systems give to services, below what Debian gives out: no account is needed for a number. */
const DEV_ACCOUNT = 58711;

/**
 * Whoever has the directories of an earlier sidecar; else the account that `kybernate setup` makes, or a number where it
 * was not run. An account that is made meanwhile does not shut the environment out of its own checkpoints.
 */
export function sidecarAccount({ stateDir }: Pick<DevPaths, 'stateDir'>): Record<string, string> {
  const left = statSync(join(stateDir, 'sidecar'), { throwIfNoEntry: false });
  const user = idOf('user', 'kybernate');
  const group = idOf('group', 'kybernate');
  const made = user !== undefined && group !== undefined ? { user, group } : { user: DEV_ACCOUNT, group: DEV_ACCOUNT };
  // Root's is one that no sidecar has had yet.
  const account = left === undefined || left.uid === 0 ? made : { user: left.uid, group: left.gid };
  return { KYBERNATE_SIDECAR_USER: String(account.user), KYBERNATE_GROUP: String(account.group) };
}

/** The caller's environment without what would point a worker to another server, store or node. */
export function withoutSettings(env: Env): Record<string, string> {
  const foreign = /^(KYBERNATE|TEMPORAL|AWS|CONTAINERD)_/;
  const kept = new Set([
    'AWS_CA_BUNDLE',
    'KYBERNATE_CACHE',
    'KYBERNATE_DOCKER_SOCKET',
    'KYBERNATE_LIBCUDA',
    'KYBERNATE_LIBNVML',
    'KYBERNATE_LOG_LEVEL',
    'KYBERNATE_POD_GPUS_FROM_ENV',
    'KYBERNATE_POD_RESOURCES',
    'KYBERNATE_RESTORE_ROOTS',
  ]);
  return Object.fromEntries(
    Object.entries(env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && (kept.has(entry[0]) || !foreign.test(entry[0])),
    ),
  );
}

/** A word for a POSIX shell. */
export function shellQuote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
