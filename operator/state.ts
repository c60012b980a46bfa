/* What this process is among its replicas: its health endpoint and its metrics tell it. */
import type { Kind } from './objects.ts';

export interface OperatorState {
  /** it acts; false: it waits for its turn */
  leads: boolean;
  /** by performance.now(): when the API server last answered about the lease */
  leaseSeenMs: number | undefined;
  /** kinds that it watches now */
  readonly watched: Set<Kind>;
}

export const KINDS: readonly Kind[] = ['Checkpoint', 'Restore'];
/** Four times as long as between two looks at the lease. */
const LEASE_MS = 20_000;

export function newOperatorState(): OperatorState {
  return { leads: false, leaseSeenMs: undefined, watched: new Set() };
}

/**
 * Does it do what it is there for: act, or wait for its turn?
 * @param nowMs by performance.now()
 * @returns why not; undefined when it does
 */
export function whyNotReady({ leads, leaseSeenMs, watched }: OperatorState, nowMs: number): string | undefined {
  if (leaseSeenMs === undefined || nowMs - leaseSeenMs > LEASE_MS) {
    return 'the API server does not answer about the lease';
  }
  const missing = KINDS.filter((kind) => !watched.has(kind));
  return leads && missing.length > 0 ? `it leads, and does not watch ${missing.join(', ')}` : undefined;
}
