/* What may still be written to a disk. */
import { statfs } from 'node:fs/promises';
import { KybernateError } from '../core/errors.ts';

export interface Room {
  readonly dir: string;
  readonly freeBytes: number;
  readonly minFreeBytes: number;
  /** what may be written; negative when less is free than must stay so */
  readonly bytes: number;
}

/** @param minFreeBytes that stay free */
export async function roomIn(dir: string, minFreeBytes = 0): Promise<Room> {
  const { bavail, bsize } = await statfs(dir);
  const freeBytes = bavail * bsize;
  return { dir, freeBytes, minFreeBytes, bytes: freeBytes - minFreeBytes };
}

/** @param what is to be written, and what has become of it */
export function noRoom({ dir, freeBytes, minFreeBytes }: Room, what: string): KybernateError {
  const kept = minFreeBytes > 0 ? `, of which ${minFreeBytes} stay free (KYBERNATE_MIN_FREE_BYTES)` : '';
  return new KybernateError('DiskFull', `${dir} has ${freeBytes} bytes free${kept}; ${what}`, {
    details: { dir, freeBytes, minFreeBytes },
  });
}
