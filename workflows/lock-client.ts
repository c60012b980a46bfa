/*
 * An operation's side of a container's lock. Asking goes through a control activity (it may have to start the lock);
 * the grant comes as a signal; releasing is a signal to the lock, which also ends a place in the queue.
 */
import {
  CancellationScope,
  TemporalFailure,
  condition,
  getExternalWorkflowHandle,
  log,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { ControlActivities } from '../activities/contract.ts';
import type { LockGrant } from '../core/contract/lock.ts';
import { containerKey, lockWorkflowId, type ContainerRef } from '../core/ids.ts';
import { failure } from './failures.ts';
import { lockGrantedSignal, releaseLockSignal } from './messages.ts';

export class ContainerLockClient {
  readonly #control: Pick<ControlActivities, 'requestLock'>;
  #lockId: string | undefined;
  #grant: LockGrant | undefined;
  #over = false;

  /** Registers the signal handler: call it before the first await. */
  constructor(control: Pick<ControlActivities, 'requestLock'>) {
    this.#control = control;
    setHandler(lockGrantedSignal, (grant) => this.#granted(grant), { description: 'sent by the lock' });
  }

  /**
   * @param minToken newest token that the node has seen; the one granted is above it
   * @throws LockLost nobody let go within `waitMs`; nothing was touched
   */
  async acquire(container: ContainerRef, options: { minToken: number; waitMs: number }): Promise<number> {
    const { workflowId, runId, workflowType } = workflowInfo();
    this.#lockId = lockWorkflowId(container);
    const request = { holder: { workflowId, runId }, operation: workflowType, minToken: options.minToken };
    await this.#control.requestLock({ container, request });
    await condition(() => this.#grant !== undefined, options.waitMs);
    if (this.#grant === undefined) {
      const seconds = Math.round(options.waitMs / 1000);
      throw failure(
        'LockLost',
        `container ${containerKey(container)} is held by another operation since more than ${seconds} s; nothing was touched`,
        { lock: this.#lockId },
      );
    }
    return this.#grant.token;
  }

  /** Lets go, or stops waiting. May be called twice; a grant that comes afterwards is given back at once. */
  async release(): Promise<void> {
    this.#over = true;
    if (this.#lockId !== undefined) {
      await this.#sendRelease(this.#lockId, this.#grant?.token ?? 0);
    }
  }

  async #granted(grant: LockGrant): Promise<void> {
    if (this.#over) {
      await this.#sendRelease(grant.lockId, grant.token);
      return;
    }
    this.#grant = grant;
  }

  async #sendRelease(lockId: string, token: number): Promise<void> {
    const { runId } = workflowInfo();
    try {
      await CancellationScope.nonCancellable(() =>
        getExternalWorkflowHandle(lockId).signal(releaseLockSignal, { runId, token }),
      );
    } catch (error) {
      // The only failure of such a signal is that the lock is not running: then it holds nothing.
      if (!(error instanceof TemporalFailure)) {
        throw error;
      }
      log.info('the lock is already gone', { lockId });
    }
  }
}
