/*
 * What the global set-ups hand to tests. The project `temporal` has one server: `inject('temporal')`. Files of the project
 * `system` run in lanes beside each other, each lane with servers of its own: `fromLane('containerd')` and so on. Plain
 * data, it crosses process borders.
 */
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
    /** in project system */
    lanes: readonly LaneServers[];
  }
}

/** Of the lane that this file runs in. vitest numbers those that are in use at once, from 1. */
export function fromLane<Name extends keyof LaneServers>(name: Name): LaneServers[Name] {
  const number = Number(process.env['VITEST_POOL_ID']);
  const lane = inject('lanes')[number - 1];
  if (lane === undefined) {
    throw new Error(`there are no servers for lane ${number}`);
  }
  return lane[name];
}
