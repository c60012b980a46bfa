import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { objectContext } from '../../core/checkpoint/encryption.ts';
import type { Backend } from '../backend/backend.ts';
import { openLocalBackend } from '../backend/local.ts';
import { ADDRESS_POINTER_KEY, PREFIX, wrappedKeyKey } from '../keys.ts';
import { localKey, type KeyRing } from './key-ring.ts';
import { openVault, type VaultPlace } from './vault.ts';

const never = new AbortController().signal;
const context = objectContext('x');
const digest = randomBytes(32);
let root = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-vault-'));
  backend = await openLocalBackend(root);
});
afterEach(() => rm(root, { recursive: true, force: true }));

function ring(current: Uint8Array, ...old: Uint8Array[]): KeyRing {
  const keys = [current, ...old].map(localKey);
  return { current: localKey(current), all: new Map(keys.map((key) => [key.id, key])) };
}

const first = randomBytes(32);
const second = randomBytes(32);

describe('openVault', () => {
  it('gives the same keys to another process', async () => {
    const writer = openVault(backend, ring(first));
    const sealer = await writer.newDataKey(never);
    const sealed = sealer.seal(context, digest);
    const address = (await writer.writersAddressKey(never)).addressOf(digest);

    const reader = openVault(backend, ring(first));

    expect((await reader.dataKey(sealer.keyId, never)).open(context, sealed)).toEqual(digest);
    expect((await reader.writersAddressKey(never)).addressOf(digest)).toEqual(address);
  });

  it('agrees on one address key when many writers begin at once', async () => {
    const vaults = Array.from({ length: 8 }, () => openVault(backend, ring(first)));

    const keys = await Promise.all(vaults.map((vault) => vault.writersAddressKey(never)));

    expect(new Set(keys.map(({ keyId }) => keyId)).size).toBe(1);
  });

  it('reads a key once, and again when a thousand others were used since', async () => {
    const objects = new Map<string, Uint8Array>();
    const read: string[] = [];
    const place: VaultPlace = {
      url: 'memory:',
      get: (key) => {
        read.push(key.split('/')[1] ?? '');
        return Promise.resolve(objects.get(key));
      },
      putIfAbsent: (key, bytes) => Promise.resolve(objects.set(key, bytes).size > 0),
      list: (prefix) => backend.list(prefix),
    };
    const writer = openVault(place, ring(first));
    const ids: string[] = [];
    for (let number = 0; number < 1001; number += 1) {
      ids.push((await writer.newDataKey(never)).keyId);
    }
    const vault = openVault(place, ring(first));

    for (const id of [...ids.slice(0, 2), ids[0] ?? '', ...ids.slice(2), ids[0] ?? '', ids[1] ?? '']) {
      await vault.dataKey(id, never);
    }

    expect(read.filter((id) => id === ids[0])).toHaveLength(1);
    expect(read.filter((id) => id === ids[1])).toHaveLength(2);
  });

  it('stores no key in clear', async () => {
    const vault = openVault(backend, ring(first));
    await vault.writersAddressKey(never);
    await vault.newDataKey(never);

    for await (const { key } of backend.list(PREFIX.keys)) {
      const text = Buffer.from((await backend.get(key)) ?? []).toString('latin1');
      expect(text).not.toContain(first.toString('base64'));
    }
  });

  it('names the keys that would be needed and those that are there', async () => {
    const { keyId } = await openVault(backend, ring(first)).newDataKey(never);

    const reading = openVault(backend, ring(second)).dataKey(keyId, never);

    await expect(reading).rejects.toMatchObject({
      type: 'KeyUnavailable',
      message: expect.stringContaining(`key ${keyId} of ${backend.url} is wrapped by key ${localKey(first).id}`),
      details: { ours: [localKey(second).id] },
    });
  });

  it('reads by an old key of the ring', async () => {
    const sealer = await openVault(backend, ring(first)).newDataKey(never);

    const reader = openVault(backend, ring(second, first));

    expect((await reader.dataKey(sealer.keyId, never)).keyId).toBe(sealer.keyId);
  });

  it('says that a key without any copy is lost', async () => {
    const reading = openVault(backend, ring(first)).dataKey('00112233445566aa', never);

    await expect(reading).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('lost'),
    });
  });

  it('finds every byte of a wrapped copy that was changed, and asks again after a failure', async () => {
    const { keyId } = await openVault(backend, ring(first)).newDataKey(never);
    const name = wrappedKeyKey(keyId, localKey(first).id);
    const whole = Buffer.from((await backend.get(name)) ?? []);
    const vault = openVault(backend, ring(first));

    const start = whole.indexOf('"wrapped": "') + 12;
    for (let at = start; whole[at] !== 0x22; at += 1) {
      const changed = Buffer.from(whole);
      changed[at] = changed[at] === 0x41 ? 0x42 : 0x41;
      await backend.put(name, changed);
      // The last letters of base64 hold bits that stand for nothing.
      await vault.dataKey(keyId, never).then(
        ({ keyId: opened }) => expect(opened).toBe(keyId),
        (error: unknown) => expect(error).toMatchObject({ type: 'CheckpointCorrupt' }),
      );
    }
    await backend.put(name, whole);
    expect((await vault.dataKey(keyId, never)).keyId).toBe(keyId);
  });

  it('finds a copy that was put in the place of another', async () => {
    const vault = openVault(backend, ring(first));
    const one = await vault.newDataKey(never);
    const other = await vault.newDataKey(never);
    const kek = localKey(first).id;
    await backend.put(wrappedKeyKey(one.keyId, kek), (await backend.get(wrappedKeyKey(other.keyId, kek))) ?? digest);

    const reading = openVault(backend, ring(first)).dataKey(one.keyId, never);

    await expect(reading).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('refuses a pointer that is none', async () => {
    await backend.put(ADDRESS_POINTER_KEY, Buffer.from('{"version":1,"addressKey":"../../x"}'));

    const writing = openVault(backend, ring(first)).writersAddressKey(never);

    await expect(writing).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });
});
