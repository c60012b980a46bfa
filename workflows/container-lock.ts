import {
  ActivityFailure,
  CancellationScope,
  CancelledFailure,
  TemporalFailure,
  condition,
  continueAsNew,
  getExternalWorkflowHandle,
  log,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import { lockInput, type LockInput, type LockState } from '../core/contract/lock.ts';
import { parseOrFail } from './failures.ts';
import { granted, isIdle, lockDetails, released, requested } from './lock-state.ts';
import { lockGrantedSignal, releaseLockSignal, requestLockSignal, stateQuery } from './messages.ts';
import { controlProxy } from './proxies.ts';

/**
 * The lock of one container, id `lock:<node>/<namespace>/<container>`: made by the first request, gone when nobody has
 * asked for a while (the node's newest token then carries the order on). It makes operations wait for each other; the
 * guarantee is the flock and the token check on the node.
 */
export async function containerLock(request: LockInput): Promise<LockState> {
  const input = parseOrFail(lockInput, request);
  const control = controlProxy('is the holder still running?');
  let state: LockState = input.state;
  let repeatGrant = false;
  let newcomer = false;
  const change = (next: LockState): void => {
    state = next;
    setCurrentDetails(lockDetails(state));
  };

  setHandler(
    requestLockSignal,
    (asked) => {
      const held = state.holder !== undefined;
      repeatGrant ||= held && state.holder?.runId === asked.holder.runId;
      newcomer ||= held && !repeatGrant;
      change(requested(state, asked));
    },
    { description: 'ask for the lock' },
  );
  setHandler(releaseLockSignal, (release) => change(released(state, release)), {
    description: 'let go, or stop waiting',
  });
  setHandler(stateQuery, () => state, { description: 'who holds the lock, who waits' });
  change(state);

  // Ended by a cancellation, it would leave a holder that does not know and others that wait in vain: it ends when idle.
  let cancelled = false;
  CancellationScope.current().cancelRequested.catch(() => {
    cancelled = true;
  });
  return CancellationScope.nonCancellable(async () => {
    for (;;) {
      if (state.holder === undefined) {
        change(granted(state, new Date(Date.now()).toISOString()));
        repeatGrant = state.holder !== undefined;
      }
      if (repeatGrant && state.holder !== undefined) {
        repeatGrant = false;
        await grant(state.holder, (runId) => change(released(state, { runId })));
        continue;
      }
      if (workflowInfo().continueAsNewSuggested) {
        await continueAsNew<typeof containerLock>({ ...input, state });
      }
      if (isIdle(state)) {
        const wanted = await condition(() => cancelled || !isIdle(state), input.idleMs);
        if (cancelled && isIdle(state)) {
          throw new CancelledFailure('the lock was cancelled');
        }
        if (!wanted) {
          return state;
        }
        continue;
      }
      // Somebody holds it. Who dies without a word is noticed when somebody comes to wait, and every now and then.
      const holder = state.holder;
      const woken = await condition(() => state.holder !== holder || repeatGrant || newcomer, input.holderCheckMs);
      const look = !woken || newcomer;
      newcomer = false;
      if (look && holder !== undefined && state.holder === holder && (await isGone(control, holder))) {
        log.warn('the holder ended without letting go', { holder: holder.workflowId });
        change(released(state, { runId: holder.runId }));
      }
    }
  });
}

/** Tells the new holder. One that is not running any more loses the lock again. */
async function grant(holder: NonNullable<LockState['holder']>, free: (runId: string) => void): Promise<void> {
  const lockId = workflowInfo().workflowId;
  try {
    await getExternalWorkflowHandle(holder.workflowId, holder.runId).signal(lockGrantedSignal, {
      lockId,
      token: holder.token,
    });
  } catch (error) {
    // The only failure of such a signal is that the run is not there to receive it.
    if (!(error instanceof TemporalFailure)) {
      throw error;
    }
    free(holder.runId);
  }
}

/** Only a positive answer counts: unreachable is not closed. */
async function isGone(
  control: ReturnType<typeof controlProxy>,
  holder: NonNullable<LockState['holder']>,
): Promise<boolean> {
  try {
    const { workflowId, runId } = holder;
    return (await control.isRunClosed({ workflowId, runId })).closed;
  } catch (error) {
    if (!(error instanceof ActivityFailure)) {
      throw error;
    }
    log.warn('cannot tell whether the holder still runs', { holder: holder.workflowId });
    return false;
  }
}
