/*
 * The keys of a store, kept in the store: each wrapped copy an object of its own, written once and never changed. Manifests
 * name keys by id alone, so a rotation adds and removes copies here and touches nothing that a reader holds.
 *
 *   keys/<key id>/<key-encryption key>.json   one key, wrapped by one key-encryption key
 *   keys/address.json                         which address key writers use; the first one there stays
 *
 * Crash: a key that nothing was sealed with may be left.
 */
import { randomBytes } from 'node:crypto';
import type * as z from 'zod';
import {
  addressPointer,
  KEY_BYTES,
  wrappedKey,
  type KeyPurpose,
  type WrappedKey,
} from '../../core/checkpoint/encryption.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Backend } from '../backend/backend.ts';
import { ADDRESS_POINTER_KEY, wrappedCopyOfKey, wrappedKeyKey, wrappedKeyPrefix } from '../keys.ts';
import { createAddressKey, createOpener, createSealer, keyIdOf } from './cipher.ts';
import type { KeyRing } from './key-ring.ts';
import type { AddressKey, Opener, StoreKeys } from './store-keys.ts';

/** From now on what is written there is sealed, and what is sealed there can be read. @returns the same backend */
export function withKeys(backend: Backend, ring: KeyRing): Backend {
  backend.keys = openVault(backend, ring);
  return backend;
}

/** What the vault needs of the place where the store lies. */
export type VaultPlace = Pick<Backend, 'url' | 'get' | 'putIfAbsent' | 'list'>;

/** Keys that are kept unwrapped, of each kind: those used last by a process that runs for months. */
const MAX_REMEMBERED = 1000;

/** Nothing is read before it is needed; what was read is kept for a while. */
export function openVault(place: VaultPlace, ring: KeyRing): StoreKeys {
  const openers = new Map<string, Promise<Opener>>();
  const addressKeys = new Map<string, Promise<AddressKey>>();
  let writers: Promise<AddressKey> | undefined;
  const addressKey = (id: string, signal: AbortSignal): Promise<AddressKey> =>
    remembered(addressKeys, id, async () => createAddressKey(id, await unwrapKey(place, ring, id, 'address', signal)));
  return {
    wrappedBy: ring.current.id,
    addressKey,
    writersAddressKey: (signal) => {
      writers ??= findOrMakeAddressKey(place, ring, signal)
        .then((id) => addressKey(id, signal))
        .catch((error: unknown) => {
          writers = undefined;
          throw error;
        });
      return writers;
    },
    newDataKey: async (signal) => {
      const key = randomBytes(KEY_BYTES);
      const id = await storeKey(place, ring, { key, purpose: 'data' }, signal);
      remember(openers, id, Promise.resolve(createOpener(id, key)));
      return createSealer(id, key);
    },
    dataKey: (id, signal) =>
      remembered(openers, id, async () => createOpener(id, await unwrapKey(place, ring, id, 'data', signal))),
  };
}

/** A failed reading is not remembered. */
function remembered<Value>(known: Map<string, Promise<Value>>, id: string, read: () => Promise<Value>): Promise<Value> {
  const before = known.get(id);
  if (before !== undefined) {
    remember(known, id, before);
    return before;
  }
  const reading = read().catch((error: unknown) => {
    known.delete(id);
    throw error;
  });
  remember(known, id, reading);
  return reading;
}

/** As the newest; the oldest is forgotten. */
function remember<Value>(known: Map<string, Value>, id: string, value: Value): void {
  known.delete(id);
  known.set(id, value);
  const [oldest] = known.keys();
  if (known.size > MAX_REMEMBERED && oldest !== undefined) {
    known.delete(oldest);
  }
}

/** Of several first writers one wins; the keys of the others are used by nobody. */
async function findOrMakeAddressKey(place: VaultPlace, ring: KeyRing, signal: AbortSignal): Promise<string> {
  const there = await readAddressPointer(place, signal);
  if (there !== undefined) {
    return there;
  }
  const id = await storeKey(place, ring, { key: randomBytes(KEY_BYTES), purpose: 'address' }, signal);
  const pointer = Buffer.from(`${JSON.stringify({ version: 1, addressKey: id })}\n`);
  if (await place.putIfAbsent(ADDRESS_POINTER_KEY, pointer, { signal })) {
    return id;
  }
  return (await readAddressPointer(place, signal)) ?? id;
}

/** Id of the writers' address key; undefined: nothing in this store is encrypted yet. @throws CheckpointCorrupt */
export async function readAddressPointer(
  place: Pick<Backend, 'url' | 'get'>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const bytes = await place.get(ADDRESS_POINTER_KEY, { signal });
  return bytes === undefined ? undefined : parse(addressPointer, bytes, place, ADDRESS_POINTER_KEY).addressKey;
}

async function storeKey(
  place: VaultPlace,
  ring: KeyRing,
  { key, purpose }: { readonly key: Uint8Array; readonly purpose: KeyPurpose },
  signal: AbortSignal,
): Promise<string> {
  const id = keyIdOf(purpose, key);
  await putWrapped(place, ring, { id, key, purpose }, signal);
  return id;
}

/** Adds the copy under the current key-encryption key; one that is there already is as good. */
export async function putWrapped(
  place: VaultPlace,
  { current }: KeyRing,
  { id, key, purpose }: { readonly id: string; readonly key: Uint8Array; readonly purpose: KeyPurpose },
  signal: AbortSignal,
): Promise<void> {
  const wrapped = Buffer.from(await current.wrap(key, signal)).toString('base64');
  const content: WrappedKey = { version: 1, key: id, purpose, wrappedBy: current.id, wrapped };
  const text = Buffer.from(`${JSON.stringify(content, undefined, 1)}\n`);
  await place.putIfAbsent(wrappedKeyKey(id, current.id), text, { signal });
}

/**
 * A key of the store, by any of the ring's keys.
 * @throws KeyUnavailable no copy is wrapped by a key of the ring; CheckpointCorrupt there is no copy at all, or the copies
 *   are damaged; StorageUnavailable the key service does not answer
 */
export async function unwrapKey(
  place: VaultPlace,
  ring: KeyRing,
  id: string,
  purpose: KeyPurpose,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const first = [ring.current, ...[...ring.all.values()].filter((key) => key !== ring.current)];
  let damage: KybernateError | undefined;
  for (const wrapping of first) {
    const name = wrappedKeyKey(id, wrapping.id);
    const bytes = await place.get(name, { signal });
    if (bytes === undefined) {
      continue;
    }
    try {
      const copy = parse(wrappedKey, bytes, place, name);
      const key = await wrapping.unwrap(Buffer.from(copy.wrapped, 'base64'), signal);
      if (key !== undefined && key.length === KEY_BYTES && copy.purpose === purpose && keyIdOf(purpose, key) === id) {
        return key;
      }
      throw new KybernateError('CheckpointCorrupt', `${place.url}/${name} is damaged: it does not unwrap to key ${id}`);
    } catch (error) {
      if (!(error instanceof KybernateError) || error.type !== 'CheckpointCorrupt') {
        throw error;
      }
      damage = error;
    }
  }
  throw damage ?? (await unavailable(place, ring, id, signal));
}

async function unavailable(place: VaultPlace, ring: KeyRing, id: string, signal: AbortSignal): Promise<KybernateError> {
  const wrappedBy: string[] = [];
  for await (const { key } of place.list(wrappedKeyPrefix(id), { signal })) {
    wrappedBy.push(wrappedCopyOfKey(key)?.wrappedBy ?? key);
  }
  const ours = [...ring.all.keys()];
  if (wrappedBy.length === 0) {
    return new KybernateError('CheckpointCorrupt', `${place.url}/${wrappedKeyPrefix(id)} is empty: key ${id} is lost`, {
      details: { kind: 'missing', object: wrappedKeyPrefix(id), key: id },
    });
  }
  return new KybernateError(
    'KeyUnavailable',
    `key ${id} of ${place.url} is wrapped by key ${wrappedBy.join(' and by ')}; this process has key ${ours.join(', ')}`,
    { details: { key: id, wrappedBy, ours } },
  );
}

function parse<Schema extends z.ZodType>(
  schema: Schema,
  bytes: Uint8Array,
  place: Pick<Backend, 'url'>,
  name: string,
): z.output<Schema> {
  const parsed = schema.safeParse(jsonOf(bytes));
  if (!parsed.success) {
    throw new KybernateError('CheckpointCorrupt', `${place.url}/${name} is damaged: it is not what was written`, {
      details: { kind: 'damaged', object: name },
    });
  }
  return parsed.data;
}

function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // Only a SyntaxError can arrive; the schema refuses what is left.
    return undefined;
  }
}
