/* No room on the node's disk, however it is told: by errno to us, in words by tar, CRIU and containerd. */
import { KybernateError, messageOf } from '../core/errors.ts';

export const NO_SPACE = /No space left on device|ENOSPC|Disk quota exceeded|EDQUOT/i;

/** @returns DiskFull for what says so, every other error as it is */
export function asDiskFull(error: unknown, checkpointDir: string): unknown {
  if (!NO_SPACE.test(textOf(error))) {
    return error;
  }
  return new KybernateError('DiskFull', `no space below ${checkpointDir} for the capture: ${messageOf(error)}`, {
    details: { checkpointDir },
    cause: error,
  });
}

function textOf(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? textOf(error.cause) : '';
  return `${messageOf(error)} ${cause}`;
}
