/*
 * The end of a child that Node did not start: one that CRIU has made our child (`rstSibling`). libuv asks for the children
 * it knows by their pids, so nobody else takes this one's end.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { lastErrno, libc, libcError } from './bindings.ts';

export interface ChildEnd {
  /** absent when a signal ended it */
  readonly exitCode?: number;
  readonly signal?: number;
}

/** Source: bits/waitflags.h. */
const WNOHANG = 1;
const POLL_MS = 20;

/** @throws Internal it is no child of this process */
export async function childEnd(pid: number): Promise<ChildEnd> {
  const status = new Int32Array(1);
  for (;;) {
    const ended = libc().waitpid(pid, status, WNOHANG);
    if (ended === pid) {
      return endOf(status[0] ?? 0);
    }
    if (ended < 0 && lastErrno() !== 'EINTR') {
      throw libcError('waitpid');
    }
    await sleep(POLL_MS);
  }
}

/** Source: bits/waitstatus.h. */
function endOf(status: number): ChildEnd {
  const signal = status & 0x7f;
  return signal === 0 ? { exitCode: (status >> 8) & 0xff } : { signal };
}
