/*
 * Rotation: every key of a store gets a copy under the current key-encryption key; then the other copies may go. Copies
 * are written once and never changed, so readers, writers and collections beside it see the old copy, the new one or
 * both, and each is right. Nothing sealed is touched.
 *
 * Crash: some keys have a new copy and some do not; the next call goes on. A writer that still wraps by an old key makes
 * keys meanwhile that only have an old copy: retire that key when every process has the new one.
 */
import { wrappedKey, type KeyPurpose } from '../../core/checkpoint/encryption.ts';
import { parseJson } from '../../core/checkpoint/manifest.ts';
import { isKybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { PREFIX, wrappedCopyOfKey, wrappedKeyKey } from '../keys.ts';
import { forEachLimit } from '../limit.ts';
import type { KeyRing } from './key-ring.ts';
import { putWrapped, readAddressPointer, unwrapKey } from './vault.ts';

const PARALLEL_KEYS = 8;

/** One key of a store. */
export interface StoredKey {
  readonly id: string;
  readonly purpose: KeyPurpose;
  /** ids of the key-encryption keys of its copies, in order */
  readonly wrappedBy: readonly string[];
  /** the address key of writers */
  readonly inUse: boolean;
}

export interface Rotated {
  readonly keys: number;
  /** copies under the current key that were missing */
  readonly added: number;
  /** copies under other keys that were removed */
  readonly removed: number;
  /** keys that none of our keys unwraps: they stay as they are */
  readonly locked: readonly string[];
}

/** @throws CheckpointCorrupt a copy is damaged; StorageUnavailable, StorageDenied */
export async function listKeys(backend: Backend, signal: AbortSignal): Promise<StoredKey[]> {
  const copies = new Map<string, string[]>();
  for await (const { key } of backend.list(PREFIX.keys, { signal })) {
    const copy = wrappedCopyOfKey(key);
    if (copy !== undefined) {
      copies.set(copy.id, [...(copies.get(copy.id) ?? []), copy.wrappedBy]);
    }
  }
  const pointer = await readAddressPointer(backend, signal);
  const keys: StoredKey[] = [];
  await forEachLimit(copies, PARALLEL_KEYS, signal, async ([id, wrappedBy]) => {
    const purpose = await purposeOf(backend, id, wrappedBy, signal);
    if (purpose !== undefined) {
      keys.push({ id, purpose, wrappedBy, inUse: id === pointer });
    }
  });
  return keys.sort((left, right) => (left.id < right.id ? -1 : 1));
}

/** undefined: all its copies have gone meanwhile. */
async function purposeOf(
  backend: Backend,
  id: string,
  wrappedBy: readonly string[],
  signal: AbortSignal,
): Promise<KeyPurpose | undefined> {
  for (const name of wrappedBy.map((wrapping) => wrappedKeyKey(id, wrapping))) {
    const bytes = await backend.get(name, { signal });
    if (bytes !== undefined) {
      return parseJson(wrappedKey, new TextDecoder().decode(bytes), `${backend.url}/${name}`).purpose;
    }
  }
  return undefined;
}

/**
 * Wraps every key by the current key-encryption key, too.
 * @param options.retire removes the copies under all other keys, of each key once its new copy was read back
 * @throws CheckpointCorrupt a copy is damaged; StorageUnavailable, StorageDenied
 */
export async function rotateKeys(
  backend: Backend,
  ring: KeyRing,
  options: { readonly retire: boolean },
  op: Op,
): Promise<Rotated> {
  const { signal } = op;
  const keys = await listKeys(backend, signal);
  const locked: string[] = [];
  let added = 0;
  let removed = 0;
  await forEachLimit(keys, PARALLEL_KEYS, signal, async ({ id, purpose, wrappedBy }) => {
    if (!wrappedBy.includes(ring.current.id)) {
      if (!(await addCopy(backend, ring, { id, purpose }, signal))) {
        locked.push(id);
        return;
      }
      added += 1;
    }
    if (options.retire) {
      const gone = await removeOthers(backend, ring, { id, purpose, wrappedBy }, signal);
      removed += gone;
    }
  });
  op.log.info({ keys: keys.length, added, removed, locked: locked.length }, 'keys rotated');
  return { keys: keys.length, added, removed, locked: locked.sort() };
}

async function addCopy(
  backend: Backend,
  ring: KeyRing,
  { id, purpose }: Pick<StoredKey, 'id' | 'purpose'>,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    const key = await unwrapKey(backend, ring, id, purpose, signal);
    await putWrapped(backend, ring, { id, key, purpose }, signal);
    return true;
  } catch (error) {
    if (isKybernateError(error, 'KeyUnavailable')) {
      return false;
    }
    throw error;
  }
}

async function removeOthers(
  backend: Backend,
  { current }: KeyRing,
  { id, purpose, wrappedBy }: Pick<StoredKey, 'id' | 'purpose' | 'wrappedBy'>,
  signal: AbortSignal,
): Promise<number> {
  const others = wrappedBy.filter((wrapping) => wrapping !== current.id);
  if (others.length > 0) {
    // The only copy from now on: it must do.
    await unwrapKey(backend, { current, all: new Map([[current.id, current]]) }, id, purpose, signal);
  }
  for (const wrapping of others) {
    await backend.delete(wrappedKeyKey(id, wrapping), { signal });
  }
  return others.length;
}
