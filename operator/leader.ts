/*
 * One operator acts at a time: the one that holds the lease. It renews it; who finds it unrenewed for as long as it was to
 * last takes it over. Turns of two operators at once would do no harm, since workflows and pods are named by uids; the
 * lease spares the API server their noise.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiException, CoordinationV1Api, V1MicroTime, type KubeConfig } from '@kubernetes/client-node';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { Lease } from './plain.ts';

const DURATION_S = 15;
const RENEW_MS = 5_000;
/** Of its duration: who cannot renew it for so long has stopped before anybody else takes it over. */
const GIVE_UP = 2 / 3;
/** A renewal that was still under way may come between. */
const RELEASES = 3;

export interface LeaseStore {
  /** @returns undefined when there is none */
  read(): Promise<Lease | undefined>;
  /** Makes it, or replaces the one that was read. @returns false when somebody else was quicker */
  write(lease: Lease): Promise<boolean>;
}

export function leaseStore(config: KubeConfig, namespace: string, name: string): LeaseStore {
  const api = config.makeApiClient(CoordinationV1Api);
  return {
    async read() {
      try {
        return await api.readNamespacedLease({ namespace, name });
      } catch (error) {
        if (error instanceof ApiException && error.code === 404) {
          return undefined;
        }
        throw error;
      }
    },
    async write(body) {
      const metadata = { ...body.metadata, namespace, name };
      try {
        await (body.metadata?.resourceVersion === undefined
          ? api.createNamespacedLease({ namespace, body: { ...body, metadata } })
          : api.replaceNamespacedLease({ namespace, name, body: { ...body, metadata } }));
        return true;
      } catch (error) {
        if (error instanceof ApiException && error.code === 409) {
          return false;
        }
        throw error;
      }
    },
  };
}

export interface LeaderOptions {
  readonly store: LeaseStore;
  /** of this process; no other has it */
  readonly identity: string;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** told of every answer of the API server about the lease */
  readonly seen?: () => void;
  readonly now?: () => Date;
  readonly renewMs?: number;
  /** how long it lasts unrenewed, in whole seconds */
  readonly durationS?: number;
}

/** One try. @returns does this process hold the lease now? */
export async function tryToLead(options: LeaderOptions): Promise<boolean> {
  const { store, identity, seen, now = () => new Date(), durationS = DURATION_S } = options;
  const lease = await store.read();
  seen?.();
  const at = now();
  const spec = lease?.spec;
  const isOwn = spec?.holderIdentity === identity;
  const isLive = at.getTime() - new Date(spec?.renewTime ?? 0).getTime() < (spec?.leaseDurationSeconds ?? 0) * 1000;
  if (!isOwn && isLive && (spec?.holderIdentity ?? '') !== '') {
    return false;
  }
  const time = new V1MicroTime(at.getTime());
  return store.write({
    ...lease,
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    spec: {
      holderIdentity: identity,
      leaseDurationSeconds: durationS,
      acquireTime: isOwn && spec.acquireTime !== undefined ? spec.acquireTime : time,
      renewTime: time,
      leaseTransitions: (spec?.leaseTransitions ?? 0) + (isOwn ? 0 : 1),
    },
  });
}

/** Waits until this process leads. @throws AbortError the signal came first */
export async function untilLeading(options: LeaderOptions): Promise<void> {
  const { log, signal, renewMs = RENEW_MS } = options;
  for (;;) {
    const leads = await within(renewMs, tryToLead(options)).catch((error: unknown) => {
      log.warn({ error: messageOf(error) }, 'the lease could not be asked for');
      return false;
    });
    if (leads) {
      return;
    }
    await sleep(renewMs, undefined, { signal });
  }
}

/**
 * Renews the lease until the signal, and lets it go then, so that the next operator need not wait.
 * @returns when it is lost, or could not be renewed: whoever led must stop
 */
export async function keepLeading(options: LeaderOptions): Promise<void> {
  const { identity, log, signal, renewMs = RENEW_MS, now = () => new Date(), durationS = DURATION_S } = options;
  let renewed = now().getTime();
  while (!signal.aborted) {
    try {
      await sleep(renewMs, undefined, { signal });
    } catch {
      // Aborted.
      break;
    }
    const begun = now().getTime();
    try {
      if (!(await within(renewMs, tryToLead(options)))) {
        log.warn({ identity }, 'another operator has the lease');
        return;
      }
      // As the lease says it: it was written after this.
      renewed = begun;
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'the lease could not be renewed');
      if (now().getTime() - renewed >= durationS * 1000 * GIVE_UP) {
        return;
      }
    }
  }
  await release(options);
}

/** Whoever waits takes it at the next look; one that cannot be let go runs out. */
async function release({ store, identity }: LeaderOptions): Promise<void> {
  for (let attempt = 0; attempt < RELEASES; attempt += 1) {
    const lease = await store.read().catch(() => undefined);
    if (lease?.spec?.holderIdentity !== identity) {
      return;
    }
    if (await store.write({ ...lease, spec: { ...lease.spec, holderIdentity: '' } }).catch(() => false)) {
      return;
    }
  }
}

/** An API server that does not answer must not keep who leads from giving up. @throws Error it did not come in time */
async function within<Result>(ms: number, call: Promise<Result>): Promise<Result> {
  const over = new AbortController();
  const late = sleep(ms, undefined, { signal: over.signal }).then(() => {
    throw new Error(`no answer in ${ms} ms`);
  });
  try {
    return await Promise.race([call, late]);
  } finally {
    over.abort();
    late.catch(() => undefined);
  }
}
