import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { encodePublishedManifest, parseManifest, type StoredManifest } from '../core/checkpoint/manifest.ts';
import { encodePackTail, type PackEntry } from '../core/pack/pack.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { findManifest, getManifest } from './catalog.ts';
import { storedChunksOf } from './chunk-list.ts';
import { localKey, type KeyRing } from './crypto/key-ring.ts';
import { rotateKeys } from './crypto/rotate.ts';
import { signDirectory, signingKeyId, type TrustPolicy } from './crypto/signing.ts';
import { withKeys } from './crypto/vault.ts';
import { digestOf, hexDigestOf } from './digest.ts';
import { fetchCheckpoint } from './fetch.ts';
import { indexKey, manifestKey, packKey, PREFIX } from './keys.ts';
import { readPackIndex } from './pack-index.ts';
import { publishManifest } from './publish.ts';
import { listStored } from './registry.ts';
import { removeCheckpoint } from './remove.ts';
import { seal } from './seal.ts';
import { uploadCheckpoint, type Uploaded } from './upload.ts';
import { verifyLocal, verifyRemote } from './verify.ts';

const never = new AbortController().signal;
const TOKEN = 'the-password-of-the-workload';
const kek = randomBytes(32);
let root = '';
let dest = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-encrypted-'));
  dest = join(root, 'dest');
  backend = await open();
});
afterEach(() => rm(root, { recursive: true, force: true }));

function ringOf(current: Uint8Array, ...old: Uint8Array[]): KeyRing {
  const keys = [current, ...old].map(localKey);
  return { current: localKey(current), all: new Map(keys.map((key) => [key.id, key])) };
}

/** The store as another process sees it: nothing is remembered. */
async function open(ring: KeyRing | undefined = ringOf(kek)): Promise<Backend> {
  const place = await openLocalBackend(join(root, 'store'));
  return ring === undefined ? place : withKeys(place, ring);
}
const openPlain = (): Promise<Backend> => openLocalBackend(join(root, 'store'));

function filesWithSecrets(seed: string): Record<string, Buffer> {
  return {
    ...sampleFiles(seed),
    'config.json': Buffer.from(JSON.stringify({ process: { env: [`PASSWORD=${TOKEN}`] } })),
    'criu/pages-2.img': Buffer.concat([Buffer.from(TOKEN), noise(3000, seed), Buffer.from(TOKEN)]),
  };
}

async function store(checkpointId: string, seed = 'same', to = backend): Promise<Uploaded> {
  const dir = join(root, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, filesWithSecrets(seed));
  const uploaded = await uploadCheckpoint({
    checkpointId,
    dir,
    manifest,
    backend: to,
    op: testOp(),
    packBytes: 300_000,
  });
  await publishManifest({ checkpointId, dir, backend: to, op: testOp() });
  return uploaded;
}

function fetch(checkpointId: string, from = backend): Promise<unknown> {
  return fetchCheckpoint({ checkpointId, backend: from, destDir: dest, op: testOp() });
}

async function expectFetched(checkpointId: string, from = backend): Promise<void> {
  await fetch(checkpointId, from);
  const list = await readFile(join(root, checkpointId, OWN_FILES.manifest), 'utf8');
  expect(await readFile(join(dest, OWN_FILES.manifest), 'utf8')).toBe(list);
  await verifyLocal(dest, parseManifest(list, ''), testOp());
  await rm(dest, { recursive: true });
}

async function expectNothingWritten(): Promise<void> {
  await expect(stat(dest)).rejects.toThrow(/ENOENT/);
}

async function keys(prefix = ''): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of backend.list(prefix)) {
    found.push(key);
  }
  return found;
}

async function bytesOf(key: string): Promise<Buffer> {
  return Buffer.from((await backend.get(key)) ?? []);
}

async function replaceManifest(id: string, edit: (manifest: StoredManifest) => object): Promise<void> {
  const manifest = await findManifest(backend, id, never);
  if (manifest === undefined) {
    throw new Error(`no manifest of ${id}`);
  }
  await backend.put(manifestKey(id), seal(encodePublishedManifest(edit(manifest) as StoredManifest)));
}

describe('an encrypted checkpoint', () => {
  it('comes back byte for byte, in another process', async () => {
    await store('ck-1');

    await expectFetched('ck-1', await open());
    await verifyRemote({ checkpointId: 'ck-1', backend: await open(), op: testOp() });
  });

  it('has no word, digest or name of its content in any object, also after it was verified', async () => {
    await store('ck-1');
    await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
    expect((await listStored(backend, testOp())).checkpoints[0]?.verifiedAt).toBeDefined();
    const dir = join(root, 'ck-1');
    const list = await readFile(join(dir, OWN_FILES.manifest));
    const manifest = parseManifest(list.toString('utf8'), '');
    const digests = manifest.files.flatMap((file) =>
      [...storedChunksOf(file)].map(({ digest }) => Buffer.from(digest)),
    );
    const metadata = await readFile(join(dir, METADATA_FILE));
    const texts = [TOKEN, 'pages-2.img', 'io.containerd.runc.v2', manifest.merkleRoot];
    const fingerprints = [...digests, Buffer.from(digestOf(list)), Buffer.from(digestOf(metadata))];
    const forbidden = [
      ...texts.flatMap((text) => [Buffer.from(text), Buffer.from(Buffer.from(text).toString('base64').slice(0, 20))]),
      ...fingerprints.flatMap((digest) => [
        digest,
        Buffer.from(digest.toString('hex').slice(0, 16)),
        Buffer.from(digest.toString('base64').slice(0, 20)),
      ]),
    ];

    for (const key of await keys()) {
      const content = Buffer.concat([Buffer.from(key), await bytesOf(key)]);
      expect(
        forbidden.filter((bytes) => content.includes(bytes)).map((bytes) => `${key}: ${bytes.toString('latin1')}`),
      ).toEqual([]);
    }
    expect(digests.length).toBeGreaterThan(10);
  });

  it('shares chunks with others of its store, and stays whole when they go', async () => {
    const first = await store('ck-1', 'one');
    const second = await store('ck-2', 'one');
    const third = await store('ck-3', 'two');

    expect(second.newChunks).toBe(0);
    expect(second.sentBytes).toBe(0);
    expect(third.newChunks).toBeLessThan(first.newChunks);
    expect(third.reusedChunks).toBeGreaterThan(0);
    await removeCheckpoint(backend, 'ck-1', testOp());
    await expectFetched('ck-2', await open());
    await expectFetched('ck-3', await open());
  });

  it('shares nothing with plain ones in the same store', async () => {
    await store('ck-0', 'one', await openPlain());
    const { reusedChunks, packs } = await store('ck-1', 'one');

    expect(reusedChunks).toBe(0);
    expect(packs).not.toEqual([]);
    await expectFetched('ck-0');
    await expectFetched('ck-1');
  });

  it('names cipher and keys in clear, those of its packs among them', async () => {
    const { packs } = await store('ck-1');
    const sealed = await readPackIndex(backend, packs[0]?.[0] ?? '', never);

    expect(sealed?.dataKey).toMatch(/^[0-9a-f]{16}$/);
    const stored = await findManifest(backend, 'ck-1', never);
    expect(stored).toMatchObject({
      version: 2,
      checkpointId: 'ck-1',
      encryption: { cipher: 'aes-256-gcm', wrappedBy: localKey(kek).id, dataKeys: [sealed?.dataKey] },
    });
  });
});

describe('damage of an encrypted store', () => {
  it('is found all over manifest, file list, indexes and wrapped keys, and nothing is written', async () => {
    await store('ck-1');
    const small = (await keys()).filter((key) => !key.startsWith(PREFIX.packs) && !key.startsWith(PREFIX.leases));
    let found = 0;

    for (const key of small) {
      const whole = await bytesOf(key);
      const step = Math.max(1, Math.floor(whole.length / 25));
      for (let at = 0; at < whole.length; at += step) {
        const changed = Buffer.from(whole);
        changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
        await backend.put(key, changed);
        const outcome = await fetch('ck-1', await open()).then(
          () => 'fetched',
          (error: unknown) => error,
        );
        if (outcome === 'fetched') {
          // A bit that stands for nothing: white space of JSON, the writers' pointer, the unread rest of base64.
          expect(key).toMatch(/^keys\//);
          await rm(dest, { recursive: true });
        } else {
          expect(outcome).toMatchObject({ type: 'CheckpointCorrupt' });
          await expectNothingWritten();
          found += 1;
        }
      }
      await backend.put(key, whole);
    }
    expect(found).toBeGreaterThan(100);
  }, 60_000);

  it('is found in every chunk of every pack, and named', async () => {
    const { packs } = await store('ck-1');

    for (const [pack] of packs) {
      const whole = await bytesOf(packKey(pack));
      for (const { offset, storedBytes } of (await readPackIndex(backend, pack, never))?.entries ?? []) {
        for (const at of [offset, offset + storedBytes - 1]) {
          const changed = Buffer.from(whole);
          changed[at] = (changed[at] ?? 0) ^ 16;
          await backend.put(packKey(pack), changed);
          await expect(fetch('ck-1')).rejects.toMatchObject({
            type: 'CheckpointCorrupt',
            message: expect.stringContaining('does not decrypt'),
            details: { pack },
          });
          await expectNothingWritten();
        }
      }
      await backend.put(packKey(pack), whole);
    }
  }, 60_000);

  it('is found when two chunks have changed places, with an index that was made to fit', async () => {
    const { packs } = await store('ck-1');
    const pack = packs[0]?.[0] ?? '';
    const index = await readPackIndex(backend, pack, never);
    const [one, other] = index?.entries ?? [];
    if (index === undefined || one === undefined || other === undefined) {
      throw new Error('the pack has less than two chunks');
    }
    const names = [other.digest, one.digest];
    const entries = index.entries.map((entry, number): PackEntry => ({
      ...entry,
      digest: names[number] ?? entry.digest,
      rawBytes: entry.rawBytes,
    }));
    const tail = encodePackTail(entries, digestOf, index.dataKey);
    const bodies = (await bytesOf(packKey(pack))).subarray(0, -tail.length);
    await backend.put(packKey(pack), Buffer.concat([bodies, tail]));
    await backend.put(indexKey(pack), tail);

    await expect(fetch('ck-1')).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await expectNothingWritten();
  });

  it('is found when packs have changed places', async () => {
    const { packs } = await store('ck-1');
    const [one, other] = packs.map(([id]) => id);
    const [first, second] = [await bytesOf(packKey(one ?? '')), await bytesOf(packKey(other ?? ''))];
    await backend.put(packKey(one ?? ''), second);
    await backend.put(packKey(other ?? ''), first);

    await expect(fetch('ck-1')).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await expectNothingWritten();
  });

  it('is found when a manifest is given out under another id', async () => {
    await store('ck-1', 'one');
    await store('ck-2', 'two');
    const other = await findManifest(backend, 'ck-2', never);
    await replaceManifest('ck-1', () => ({ ...other, checkpointId: 'ck-1' }));

    await expect(fetch('ck-1')).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('does not decrypt'),
    });
    await expectNothingWritten();
  });

  it.each<[string, (manifest: StoredManifest, old: StoredManifest) => object]>([
    ['other packs', (manifest, old) => ({ ...manifest, packs: old.packs })],
    ['another time', (manifest) => ({ ...manifest, publishedAt: '2031-01-01T00:00:00.000Z' })],
    ['another size', (manifest) => ({ ...manifest, totalBytes: 1 })],
    ['the sealed part of another', (manifest, old) => ({ ...manifest, content: 'content' in old ? old.content : '' })],
  ])('is found when a manifest was forged with %s', async (_, edit) => {
    await store('ck-old', 'old');
    await store('ck-1', 'one');
    const old = await findManifest(backend, 'ck-old', never);
    await replaceManifest('ck-1', (manifest) => edit(manifest, old ?? manifest));

    await expect(fetch('ck-1')).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await expectNothingWritten();
  });
});

describe('without the right key', () => {
  it('nothing is read or written, and the needed key is named', async () => {
    await store('ck-1');
    const wrong = await open(ringOf(randomBytes(32)));

    await expect(fetch('ck-1', wrong)).rejects.toMatchObject({
      type: 'KeyUnavailable',
      message: expect.stringContaining(localKey(kek).id),
    });
    await expect(fetch('ck-1', await openPlain())).rejects.toMatchObject({
      type: 'KeyUnavailable',
      message: expect.stringContaining(localKey(kek).id),
    });
    await expectNothingWritten();
  });

  it('nothing is uploaded: neither plain bytes nor such that the others could not read', async () => {
    await store('ck-1');
    const before = await keys(PREFIX.packs);

    await expect(store('ck-2', 'two', await openPlain())).rejects.toMatchObject({ type: 'KeyUnavailable' });
    await expect(store('ck-3', 'two', await open(ringOf(randomBytes(32))))).rejects.toMatchObject({
      type: 'KeyUnavailable',
    });
    expect(await keys(PREFIX.packs)).toEqual(before);
  });

  it('the store is listed, and removal works', async () => {
    await store('ck-1');
    const plain = await openPlain();

    const { checkpoints, damaged } = await listStored(plain, testOp());

    expect(checkpoints).toEqual([]);
    expect(damaged).toMatchObject([{ checkpointId: 'ck-1', reason: expect.stringContaining('is encrypted') }]);
    const wrapped = await keys(PREFIX.keys);
    const content = (await findManifest(plain, 'ck-1', never))?.encryption?.contentKey ?? '';
    await removeCheckpoint(plain, 'ck-1', testOp());
    expect(await keys(PREFIX.checkpoints)).toEqual([]);
    expect(await keys(PREFIX.packs)).toEqual([]);
    // What was sealed for this checkpoint alone can be opened by nobody any more.
    expect(await keys(PREFIX.keys)).toEqual(wrapped.filter((key) => !key.includes(content)));
  });

  it('a manifest of a later format is refused by its version', async () => {
    await store('ck-1');
    await replaceManifest('ck-1', (manifest) => ({ ...manifest, version: 3 }));

    await expect(fetch('ck-1')).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringContaining('format version 3'),
    });
  });
});

describe('rotation', () => {
  const next = randomBytes(32);

  it('lets the new key read everything, and the old one nothing any more once it is retired', async () => {
    await store('ck-1');
    const ring = ringOf(next, kek);

    const first = await rotateKeys(backend, ring, { retire: false }, testOp());
    await expectFetched('ck-1', await open(ringOf(next)));
    await expectFetched('ck-1', await open(ringOf(kek)));
    const again = await rotateKeys(backend, ring, { retire: true }, testOp());

    expect(first.added).toBe(first.keys);
    expect(again).toMatchObject({ added: 0, removed: first.keys, locked: [] });
    await expectFetched('ck-1', await open(ringOf(next)));
    await expect(fetch('ck-1', await open(ringOf(kek)))).rejects.toMatchObject({ type: 'KeyUnavailable' });
    expect((await store('ck-2', 'same', await open(ringOf(next)))).newChunks).toBe(0);
  });

  it('goes on where it was cut off, and leaves what it cannot unwrap', async () => {
    await store('ck-1');
    const all = await keys(PREFIX.keys);
    const half: Backend = Object.assign(await openLocalBackend(join(root, 'store')), {});
    let writes = 0;
    const cut = Object.assign(Object.create(half) as Backend, {
      url: half.url,
      get: half.get.bind(half),
      list: half.list.bind(half),
      putIfAbsent: (...args: Parameters<Backend['putIfAbsent']>) => {
        writes += 1;
        return writes > 1 ? Promise.reject(new Error('cut off')) : half.putIfAbsent(...args);
      },
    });
    await expect(rotateKeys(cut, ringOf(next, kek), { retire: true }, testOp())).rejects.toThrow('cut off');
    await expectFetched('ck-1', await open());

    const done = await rotateKeys(backend, ringOf(next, kek), { retire: false }, testOp());
    const stranger = await rotateKeys(backend, ringOf(randomBytes(32)), { retire: true }, testOp());

    expect(done.added).toBe(all.length - 1 - 1);
    expect(stranger).toMatchObject({ added: 0, removed: 0 });
    expect(stranger.locked).toHaveLength(done.keys);
    await expectFetched('ck-1', await open(ringOf(next)));
  });
});

it('a signature stays with its checkpoint through encryption, and is checked before anything is read', async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const signer = { keyId: signingKeyId(publicKey), privateKey, publicKey };
  const dir = join(root, 'ck-1');
  await mkdir(dir);
  const manifest = await makeCheckpoint(dir, 'ck-1', filesWithSecrets('one'));
  await signDirectory(dir, await readFile(join(dir, METADATA_FILE), 'utf8'), signer);
  await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
  await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
  await store('ck-2', 'two');
  const trust: TrustPolicy = { mode: 'required', keys: new Map([[signer.keyId, publicKey]]) };
  const get = (checkpointId: string): Promise<unknown> =>
    fetchCheckpoint({ checkpointId, backend, destDir: dest, op: testOp(), trust });

  await expect(get('ck-2')).rejects.toMatchObject({ type: 'SignatureInvalid' });
  await expectNothingWritten();
  await get('ck-1');
  expect(hexDigestOf(await readFile(join(dest, OWN_FILES.signature)))).toBe(
    hexDigestOf(await readFile(join(dir, OWN_FILES.signature))),
  );
  expect((await getManifest(backend, 'ck-1')).manifest.signature?.signatures[0]?.keyId).toBe(signer.keyId);
});
