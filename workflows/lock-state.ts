/*
 * The rules of a container's lock, without Temporal. One holder, the others in order of arrival; every grant has a
 * token above all earlier ones and above what the node has seen, so that the node can refuse a holder that lost it.
 */
import type { LockRelease, LockRequest, LockState } from '../core/contract/lock.ts';

export const EMPTY_LOCK: LockState = { waiting: [], lastToken: 0 };

/** A run that asks again (its first answer was lost) keeps its place. */
export function requested(state: LockState, request: LockRequest): LockState {
  const known = [state.holder, ...state.waiting.map((waiting) => waiting.holder)];
  if (known.some((holder) => holder?.runId === request.holder.runId)) {
    return state;
  }
  return { ...state, waiting: [...state.waiting, request] };
}

/** Ends the hold of this run and its place in the queue; a stranger changes nothing. */
export function released(state: LockState, release: Pick<LockRelease, 'runId'>): LockState {
  const waiting = state.waiting.filter((request) => request.holder.runId !== release.runId);
  if (state.holder?.runId === release.runId) {
    return { waiting, lastToken: state.lastToken };
  }
  return { ...state, waiting };
}

/** Gives a free lock to the first in the queue; otherwise the state as it is. */
export function granted(state: LockState, since: string): LockState {
  const [next, ...waiting] = state.waiting;
  if (state.holder !== undefined || next === undefined) {
    return state;
  }
  const token = Math.max(next.minToken, state.lastToken) + 1;
  return { holder: { ...next.holder, operation: next.operation, token, since }, waiting, lastToken: token };
}

export function isIdle(state: LockState): boolean {
  return state.holder === undefined && state.waiting.length === 0;
}

/** Markdown for the Web UI. */
export function lockDetails(state: LockState): string {
  const holder =
    state.holder === undefined
      ? 'free'
      : `held by \`${state.holder.workflowId}\` (${state.holder.operation}) since ${state.holder.since}, token ${state.holder.token}`;
  return [
    holder,
    ...state.waiting.map((request, index) => `${index + 1}. \`${request.holder.workflowId}\` waits`),
  ].join('\n\n');
}
