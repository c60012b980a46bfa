/*
 * What the global set-ups hand to tests. The project `temporal` has one server: `inject('temporal')`. Files of the project
 * `system` run in lanes beside each other, each lane with servers of its own: `fromLane('containerd')` and so on. Plain
 * data, it crosses process borders.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { S3Server } from '../../cli/dev/s3.ts';
import type { TemporalServer } from '../../cli/dev/temporal.ts';

export interface ProvidedContainerd {
  readonly address: string;
  readonly dir: string;
  /** PATH with ctr, runc, criu, the stock shim and the Kybernate shim */
  readonly path: string;
  /** every test image is imported here; containers of other namespaces need `importImages` first */
  readonly namespace: string;
  /** KYBERNATE_RUN_DIR of its shims: node workers of the tests use the same */
  readonly runDir: string;
}

/** Of one lane. */
export interface LaneServers {
  readonly temporal: TemporalServer;
  readonly containerd: ProvidedContainerd;
  readonly s3: S3Server;
  readonly programs: { readonly runc: string; readonly criu: string; readonly ctr: string };
}

declare module 'vitest' {
  interface ProvidedContext {
    /** in project temporal */
    temporal: TemporalServer;
    /** in project system: a directory for each lane */
    lanes: readonly string[];
  }
}

/** Of the lane that this file runs in. vitest numbers those that are in use at once, from 1. */
export function laneDir(): string {
  const number = Number(process.env['VITEST_POOL_ID']);
  const dir = inject('lanes')[number - 1];
  if (dir === undefined) {
    throw new Error(`there is no lane ${number}`);
  }
  return dir;
}

/** What its servers are, once they run. */
export function laneFile(): string {
  return join(laneDir(), 'lane.json');
}

let lane: LaneServers | undefined;

export function fromLane<Name extends keyof LaneServers>(name: Name): LaneServers[Name] {
  lane ??= JSON.parse(readFileSync(laneFile(), 'utf8')) as LaneServers;
  return lane[name];
}
