/*
 * checkpoints/<id>/verified-<digest>.json: this content was read back from the store, every byte. Named by the first 16
 * digits of `publicationDigest`, so that it says nothing of another checkpoint of the same id, and a list of keys tells it.
 */
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { PREFIX } from './keys.ts';

const DIGITS = 16;

export interface Readback {
  readonly checkpointId: string;
  /** `publicationDigest` of the manifest */
  readonly digest: string;
  /** no damage was found */
  readonly whole: boolean;
}

/**
 * Notes what reading every byte has shown: whole, or damaged. A store that fails now is only logged: the note says
 * nothing that another reading would not show.
 */
export async function noteReadback(backend: Backend, { checkpointId, digest, whole }: Readback, op: Op): Promise<void> {
  const key = verifiedKey(checkpointId, digest);
  try {
    if (whole) {
      const content = JSON.stringify({ verifiedAt: new Date().toISOString(), digest });
      await backend.put(key, Buffer.from(content), { signal: op.signal });
    } else {
      await backend.delete(key, { signal: op.signal });
    }
  } catch (error) {
    op.signal.throwIfAborted();
    op.log.warn({ checkpointId, whole, reason: messageOf(error) }, 'the store does not know of the verification');
  }
}

/** ISO time at which this content was read back last, every byte; undefined when it was not. */
export async function findVerified(
  backend: Backend,
  { checkpointId, digest }: Pick<Readback, 'checkpointId' | 'digest'>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const mark = await backend.head(verifiedKey(checkpointId, digest), { signal });
  return mark && new Date(mark.modifiedMs).toISOString();
}

/** The checkpoint, and the digits of the content that was verified; undefined for other objects. */
export function verifiedOfKey(key: string): { readonly checkpointId: string; readonly digits: string } | undefined {
  const [, checkpointId, digits] = /^checkpoints\/([^/]+)\/verified-([0-9a-f]{16})\.json$/.exec(key) ?? [];
  return checkpointId === undefined || digits === undefined ? undefined : { checkpointId, digits };
}

export function isOfPublication(digits: string, digest: string): boolean {
  return digest.slice(0, DIGITS) === digits;
}

function verifiedKey(checkpointId: string, digest: string): string {
  return `${PREFIX.checkpoints}${checkpointId}/verified-${digest.slice(0, DIGITS)}.json`;
}
