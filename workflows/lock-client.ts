/*
 * An operation's side of a container's lock. Asking goes through a control activity (it may have to start the lock);
 * the grant comes as a signal; releasing is a signal to the lock, which also ends a place in the queue.
 */
import {
  CancellationScope,
  condition,
  getExternalWorkflowHandle,
  log,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { ControlActivities } from '../activities/contract.ts';
import type { LockGrant } from '../core/contract/lock.ts';
import { containerKey, lockWorkflowId, type ContainerRef } from '../core/ids.ts';
import { messageOf } from '../core/errors.ts';
import { failure } from './failures.ts';
import { lockGrantedSignal, releaseLockSignal } from './messages.ts';

export class ContainerLockClient {
  readonly #control: Pick<ControlActivities, 'requestLock'>;
  #lockId: string | undefined;
  #grant: LockGrant | undefined;
  #over = false;
  readonly #deliveries: Array<Promise<void>> = [];

  /** Registers the signal handler: call it before the first await. */
  constructor(control: Pick<ControlActivities, 'requestLock'>) {
    this.#control = control;
    setHandler(lockGrantedSignal, (grant) => this.#granted(grant), { description: 'sent by the lock' });
  }

  /**
   * May be called again when a release was delivered.
   * @param minToken newest token that the node has seen; the one granted is above it
   * @throws LockLost nobody let go within `waitMs`; nothing was touched
   */
  async acquire(container: ContainerRef, options: { minToken: number; waitMs: number }): Promise<number> {
    const { workflowId, runId, workflowType } = workflowInfo();
    this.#begin();
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

  /**
   * Lets go, or stops waiting; a grant that comes afterwards is given back at once. The operation need not wait for the
   * delivery before its next step, but before its end: Temporal drops what a closed workflow still had to send.
   */
  release(): void {
    this.#over = true;
    if (this.#lockId !== undefined) {
      this.#sendRelease(this.#lockId, this.#grant?.token ?? 0);
    }
  }

  /** Resolves when the lock has got every release. */
  async delivered(): Promise<void> {
    for (let count = 0; count < this.#deliveries.length;) {
      count = this.#deliveries.length;
      await Promise.all(this.#deliveries);
    }
  }

  #begin(): void {
    this.#over = false;
    this.#grant = undefined;
  }

  #granted(grant: LockGrant): void {
    if (this.#over) {
      this.#sendRelease(grant.lockId, grant.token);
      return;
    }
    if (this.#lockId === undefined) {
      // Not asked yet: Temporal tells a run that was reset once more what the run before it was told. That grant is over.
      return;
    }
    this.#grant = grant;
  }

  #sendRelease(lockId: string, token: number): void {
    const { runId } = workflowInfo();
    const delivery = CancellationScope.nonCancellable(() =>
      getExternalWorkflowHandle(lockId).signal(releaseLockSignal, { runId, token }),
    ).catch((error: unknown) => {
      // The only failure of such a signal is that the lock is not running: then it holds nothing.
      log.info('the lock is already gone', { lockId, error: messageOf(error) });
    });
    this.#deliveries.push(delivery);
  }
}
