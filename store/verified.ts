/*
 * checkpoints/<id>/verified-<root>.json: this content was read back from the store, every byte. Named by the first 16
 * digits of the Merkle root, so that it says nothing of another checkpoint of the same id, and a list of keys tells it.
 */
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { PREFIX } from './keys.ts';

const ROOT_DIGITS = 16;

export interface Readback {
  readonly checkpointId: string;
  readonly merkleRoot: string;
}

/** A store that fails now is only logged: the checkpoint is whole all the same, `ls` shows it as `remote`. */
export async function recordVerified(
  backend: Backend,
  read: Readback & { readonly bytes: number },
  op: Op,
): Promise<void> {
  const { checkpointId, merkleRoot, bytes } = read;
  const content = JSON.stringify({ verifiedAt: new Date().toISOString(), merkleRoot, bytes });
  try {
    await backend.put(verifiedKey(read), Buffer.from(content), { signal: op.signal });
  } catch (error) {
    op.signal.throwIfAborted();
    op.log.warn({ checkpointId, reason: messageOf(error) }, 'not noted in the store that it was verified');
  }
}

/** Something of it was found damaged. */
export async function forgetVerified(backend: Backend, read: Readback, signal: AbortSignal): Promise<void> {
  await backend.delete(verifiedKey(read), { signal });
}

/** The checkpoint, and the digits of the content that was verified; undefined for other objects. */
export function verifiedOfKey(key: string): { readonly checkpointId: string; readonly rootDigits: string } | undefined {
  const [, checkpointId, rootDigits] = /^checkpoints\/([^/]+)\/verified-([0-9a-f]{16})\.json$/.exec(key) ?? [];
  return checkpointId === undefined || rootDigits === undefined ? undefined : { checkpointId, rootDigits };
}

export function isOfRoot(rootDigits: string, merkleRoot: string): boolean {
  return merkleRoot.slice(0, ROOT_DIGITS) === rootDigits;
}

function verifiedKey({ checkpointId, merkleRoot }: Readback): string {
  return `${PREFIX.checkpoints}${checkpointId}/verified-${merkleRoot.slice(0, ROOT_DIGITS)}.json`;
}
