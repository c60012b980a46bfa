import { describe, expect, it } from 'vitest';
import type { LockRequest, LockState } from '../core/contract/lock.ts';
import { EMPTY_LOCK, granted, isIdle, lockDetails, released, requested } from './lock-state.ts';

const ask = (name: string, minToken = 0): LockRequest => ({
  holder: { workflowId: name, runId: `run-${name}` },
  operation: 'checkpoint',
  minToken,
});
const SINCE = '2026-01-01T00:00:00.000Z';
const after = (...changes: Array<(state: LockState) => LockState>): LockState =>
  changes.reduce((state, change) => change(state), EMPTY_LOCK);
const asks = (name: string, minToken?: number) => (state: LockState) => requested(state, ask(name, minToken));
const grants = (state: LockState): LockState => granted(state, SINCE);
const releases = (name: string) => (state: LockState) => released(state, { runId: `run-${name}` });

describe('lock', () => {
  it('goes to the first that asked', () => {
    const state = after(asks('a'), asks('b'), grants);

    expect(state.holder).toEqual({ workflowId: 'a', runId: 'run-a', operation: 'checkpoint', token: 1, since: SINCE });
    expect(state.waiting).toEqual([ask('b')]);
  });

  it('stays with its holder while others ask', () => {
    const state = after(asks('a'), grants, asks('b'), grants);

    expect(state.holder?.workflowId).toBe('a');
  });

  it('gives every grant a greater token, also after nobody held it', () => {
    const state = after(asks('a'), grants, releases('a'), asks('b'), grants);

    expect(state).toMatchObject({ holder: { workflowId: 'b', token: 2 }, lastToken: 2 });
  });

  it('starts above the newest token that the node has seen', () => {
    expect(after(asks('a', 41), grants).holder?.token).toBe(42);
    expect(after(asks('a', 41), grants, releases('a'), asks('b', 3), grants).holder?.token).toBe(43);
  });

  it('keeps the place of a run that asks again', () => {
    const state = after(asks('a'), grants, asks('b'), asks('a'), asks('b'));

    expect(state.waiting.map((request) => request.holder.workflowId)).toEqual(['b']);
  });

  it('forgets a waiting run that lets go', () => {
    const state = after(asks('a'), grants, asks('b'), asks('c'), releases('b'));

    expect(state.waiting.map((request) => request.holder.workflowId)).toEqual(['c']);
    expect(state.holder?.workflowId).toBe('a');
  });

  it('is not freed by a stranger', () => {
    expect(after(asks('a'), grants, releases('x')).holder?.workflowId).toBe('a');
  });

  it('is idle only without holder and queue', () => {
    expect(isIdle(EMPTY_LOCK)).toBe(true);
    expect(isIdle(after(asks('a')))).toBe(false);
    expect(isIdle(after(asks('a'), grants))).toBe(false);
  });

  it('names holder and queue for the Web UI', () => {
    expect(lockDetails(EMPTY_LOCK)).toBe('free');
    expect(lockDetails(after(asks('a'), grants, asks('b')))).toBe(
      `held by \`a\` (checkpoint) since ${SINCE}, token 1\n\n1. \`b\` waits`,
    );
  });
});
