/*
 * The bytes for restores that the runtime asks for. A caller waits for a time only, the work does not end with it: whoever
 * asks next joins. What comes from the store comes by the workflow `prefetch`, so that it goes on through a restart of this
 * worker and is seen by `kybernate ps`; without an answer of Temporal it is brought by this process alone.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isGrpcServiceError } from '@temporalio/client';
import type { KybernateClient } from '../client/index.ts';
import { METADATA_FILE } from '../core/checkpoint/file-names.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { prefetchWorkflowId } from '../core/ids.ts';
import type { Logger, Op, Progress } from '../core/op.ts';
import type { SourceAccess } from '../engine/restore-source.ts';

export interface RestoreSourcesDeps {
  readonly node: string;
  readonly log: Logger;
  /** aborted when the worker ends */
  readonly signal: AbortSignal;
  readonly client: Pick<KybernateClient, 'prefetch'>;
  /** directory of a checkpoint on this node, whether it is there or not */
  readonly pathOf: (checkpointId: string) => string;
  /** brings it in this process; every chunk is checked */
  readonly fetch: (checkpointId: string, op: Op) => Promise<string>;
  readonly verify: (checkpointDir: string, op: Op) => Promise<void>;
  readonly describe: NonNullable<SourceAccess['describe']>;
  readonly signedOnly: boolean;
}

type Moved = Pick<Progress, 'bytesDone' | 'bytesTotal'>;

interface Work {
  readonly done: Promise<void>;
  progress: () => Promise<Moved>;
}

/** A directory whose files were all read and compared needs no second look by the attempt that follows. */
const VERIFIED_MS = 900_000;

export function restoreSources(deps: RestoreSourcesDeps): SourceAccess {
  const running = new Map<string, Work>();
  const verified = new Map<string, { readonly stamp: string; readonly atMs: number }>();
  const join = async (key: string, what: string, until: number | undefined, begin: () => Work): Promise<void> => {
    let work = running.get(key);
    if (work === undefined) {
      work = begin();
      running.set(key, work);
      const forget = (): void => void running.delete(key);
      work.done.then(forget, forget);
    }
    await within(work, what, until, deps);
  };
  const noteVerified = (dir: string): void => {
    verified.set(dir, { stamp: stampOf(dir), atMs: Date.now() });
  };
  return {
    signedOnly: deps.signedOnly,
    describe: deps.describe,
    async fetchCheckpoint(checkpointId, until) {
      await join(`fetch ${checkpointId}`, `checkpoint ${checkpointId} is on its way`, until, () =>
        fetching(deps, checkpointId, () => noteVerified(deps.pathOf(checkpointId))),
      );
      return deps.pathOf(checkpointId);
    },
    async verifyCheckpoint(dir, until) {
      const known = verified.get(dir);
      if (known !== undefined && known.stamp === stampOf(dir) && Date.now() - known.atMs < VERIFIED_MS) {
        return;
      }
      await join(`verify ${dir}`, `the copy in ${dir} is being checked`, until, () =>
        verifying(deps, dir, noteVerified),
      );
    },
  };
}

/** Another commit is another file. */
function stampOf(dir: string): string {
  const stats = statSync(join(dir, METADATA_FILE), { throwIfNoEntry: false, bigint: true });
  return stats === undefined ? '' : `${stats.dev}:${stats.ino}:${stats.mtimeNs}`;
}

function verifying(deps: RestoreSourcesDeps, dir: string, verified: (dir: string) => void): Work {
  let moved: Moved = {};
  const op = opOf(deps, (now) => (moved = now));
  return { done: deps.verify(dir, op).then(() => verified(dir)), progress: () => Promise.resolve(moved) };
}

function fetching(deps: RestoreSourcesDeps, checkpointId: string, verified: () => void): Work {
  const work: Work = { done: run(), progress: () => Promise.resolve({}) };
  return work;

  async function run(): Promise<void> {
    // The caller has the object before anything of it changes.
    await Promise.resolve();
    const { client, node, log } = deps;
    try {
      const operation = await client.prefetch(
        { checkpointId, nodes: [node], tier: 'local' },
        { workflowId: prefetchWorkflowId(checkpointId, `restore-on-${node}`), again: true },
      );
      log.info({ checkpointId, workflowId: operation.workflowId }, 'checkpoint is brought for a restore');
      work.progress = async () => (await operation.progress()) ?? {};
      await operation.result();
    } catch (error) {
      if (!isGrpcServiceError(error)) {
        throw error;
      }
      log.warn(
        { checkpointId, error: messageOf(error) },
        'Temporal does not answer: this worker brings the checkpoint',
      );
      let moved: Moved = {};
      work.progress = () => Promise.resolve(moved);
      await deps.fetch(
        checkpointId,
        opOf(deps, (now) => (moved = now)),
      );
    }
    verified();
  }
}

function opOf({ signal, log }: RestoreSourcesDeps, moved: (now: Moved) => void): Op {
  return { signal, log, progress: ({ bytesDone, bytesTotal }) => moved(given({ bytesDone, bytesTotal })) };
}

function given({ bytesDone, bytesTotal }: { bytesDone?: number | undefined; bytesTotal?: number | undefined }): Moved {
  return {
    ...(bytesDone === undefined ? {} : { bytesDone }),
    ...(bytesTotal === undefined ? {} : { bytesTotal }),
  };
}

/** @throws RestorePending the work goes on; what it failed with */
async function within(
  work: Work,
  what: string,
  until: number | undefined,
  { signal }: Pick<RestoreSourcesDeps, 'signal'>,
): Promise<void> {
  if (until === undefined) {
    return work.done;
  }
  const over = new AbortController();
  const late = sleep(Math.max(0, until - performance.now()), 'late' as const, {
    signal: AbortSignal.any([signal, over.signal]),
  }).catch(() => 'late' as const);
  try {
    if ((await Promise.race([work.done, late])) !== 'late') {
      return;
    }
  } finally {
    over.abort();
  }
  throw new KybernateError('RestorePending', `${what}: ${shareOf(await work.progress().catch(() => ({})))}`);
}

function shareOf({ bytesDone, bytesTotal }: Moved): string {
  const next = 'the next attempt goes on from there';
  if (bytesDone === undefined || bytesTotal === undefined || bytesTotal === 0) {
    return `it has begun, ${next}`;
  }
  const percent = Math.floor((bytesDone * 100) / bytesTotal);
  return `${percent} % (${gibibytes(bytesDone)} of ${gibibytes(bytesTotal)} GiB), ${next}`;
}

function gibibytes(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(2);
}
