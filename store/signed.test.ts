import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { SignatureMode } from '../core/checkpoint/signature.ts';
import { encodePublishedManifest, type PublishedManifest } from '../core/checkpoint/manifest.ts';
import { watch } from '../test/harness/backends.ts';
import { makeCheckpoint, sampleFiles, sampleMetadata, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import {
  checkDirectorySignature,
  signDirectory,
  signingKeyId,
  type SigningKey,
  type TrustPolicy,
} from './crypto/signing.ts';
import { openSeen } from './crypto/seen.ts';
import { fetchCheckpoint } from './fetch.ts';
import { manifestKey } from './keys.ts';
import { publishManifest } from './publish.ts';
import { removeCheckpoint } from './remove.ts';
import { seal } from './seal.ts';
import { uploadCheckpoint } from './upload.ts';

let root = '';
let dest = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-signed-'));
  dest = join(root, 'dest');
  backend = await openLocalBackend(join(root, 'store'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

function newKey(): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return { keyId: signingKeyId(publicKey), privateKey, publicKey };
}
const ours = newKey();
const foreign = newKey();

function trust(mode: SignatureMode, key = ours): TrustPolicy {
  return { mode, keys: new Map([[key.keyId, key.publicKey]]) };
}

/** As the node's commit, upload and publication. */
async function store(checkpointId: string, key?: SigningKey, seed = checkpointId, createdAt = ''): Promise<string> {
  const dir = join(root, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, sampleFiles(seed));
  if (createdAt !== '') {
    const metadata = { ...sampleMetadata(checkpointId, manifest), createdAt };
    await writeFile(join(dir, METADATA_FILE), JSON.stringify(metadata));
  }
  if (key !== undefined) {
    await signDirectory(dir, await readFile(join(dir, METADATA_FILE), 'utf8'), key);
  }
  await uploadCheckpoint({ checkpointId, dir, manifest, backend, op: testOp() });
  await publishManifest({ checkpointId, dir, backend, op: testOp() });
  return dir;
}

async function keysOf(prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of backend.list(prefix)) {
    found.push(key);
  }
  return found;
}

function fetch(checkpointId: string, policy: TrustPolicy, from = backend): Promise<unknown> {
  return fetchCheckpoint({ checkpointId, backend: from, destDir: dest, op: testOp(), trust: policy });
}

async function forge(checkpointId: string, edit: (manifest: PublishedManifest) => PublishedManifest): Promise<void> {
  const { manifest } = await getManifest(backend, checkpointId);
  await backend.put(manifestKey(checkpointId), seal(encodePublishedManifest(edit(manifest))));
}

/** Refused, and no byte of it was read or written. */
async function expectRefused(checkpointId: string, policy: TrustPolicy, message: RegExp): Promise<void> {
  const watched = watch(backend);
  await expect(fetch(checkpointId, policy, watched)).rejects.toMatchObject({
    type: 'SignatureInvalid',
    message: expect.stringMatching(message),
  });
  expect(watched.calls.filter(({ name, key }) => name === 'get' && !key.endsWith('manifest.json'))).toEqual([]);
  await expect(stat(dest)).rejects.toThrow(/ENOENT/);
}

describe('a signed checkpoint', () => {
  it('carries its signature through the store, and the copy on another node has it, too', async () => {
    const dir = await store('ck-1', ours);

    await fetch('ck-1', trust('required'));

    expect(await readFile(join(dest, OWN_FILES.signature))).toEqual(await readFile(join(dir, OWN_FILES.signature)));
    await checkDirectorySignature(dest, trust('required'), testOp());
  });

  it('is fetched by readers that look at no signature', async () => {
    await store('ck-1', foreign);

    await fetch('ck-1', trust('off'));
  });

  it.each<[string, SigningKey | undefined, RegExp]>([
    ['without a signature', undefined, /is not signed/],
    ['with a foreign signature', foreign, /does not trust/],
  ])('%s is refused before a byte is used where signatures are required', async (_, key, message) => {
    await store('ck-1', key);

    await expectRefused('ck-1', trust('required'), message);
  });

  it('is found when its manifest is given out under another id', async () => {
    await store('ck-1', ours);
    await store('ck-2', ours);
    const { manifest: other } = await getManifest(backend, 'ck-2');
    await forge('ck-1', ({ metadata }) => {
      const text = other.metadata.text.replace('ck-2', 'ck-1');
      expect(metadata.text).not.toBe(text);
      return { ...other, checkpointId: 'ck-1' };
    });

    // The manifest's own metadata names the other id; nothing needs to be read to see it.
    await expect(fetch('ck-1', trust('required'))).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await expect(stat(dest)).rejects.toThrow(/ENOENT/);
  });

  it.each<[string, (mine: PublishedManifest, old: PublishedManifest) => PublishedManifest, RegExp]>([
    ['the file list of another', (mine, old) => ({ ...mine, files: old.files }), /filesDigest/],
    ['a larger size', (mine) => ({ ...mine, totalBytes: mine.totalBytes + 1 }), /totalBytes/],
    ['the signature of another', (mine, old) => ({ ...mine, signature: old.signature }), /checkpointId/],
  ])('is found when its manifest was forged with %s', async (_, edit, message) => {
    await store('ck-old', ours);
    await store('ck-1', ours);
    const { manifest: old } = await getManifest(backend, 'ck-old');
    await forge('ck-1', (mine) => edit(mine, old));

    await expectRefused('ck-1', trust('required'), message);
    await expectRefused('ck-1', trust('accept'), message);
  });

  it('is found when an older one of its id was put back, in the store of a node that has seen the newer one', async () => {
    const policy = { ...trust('required'), seen: openSeen(join(root, 'seen.jsonl')) };
    await store('nightly', ours, 'old', '2026-01-01T00:00:00.000Z');
    const old = await Promise.all((await keysOf('')).map(async (key) => [key, await backend.get(key)] as const));
    await removeCheckpoint(backend, 'nightly', testOp());
    await rm(join(root, 'nightly'), { recursive: true });
    await store('nightly', ours, 'new', '2026-01-02T00:00:00.000Z');
    await fetch('nightly', policy);
    await rm(dest, { recursive: true });

    for (const [key, bytes] of old) {
      await backend.put(key, bytes ?? new Uint8Array());
    }

    await expectRefused('nightly', policy, /an older one was put back/);
    await fetch('nightly', trust('required'));
  });

  it('is found when the signature was taken away', async () => {
    await store('ck-1', ours);
    await forge('ck-1', ({ signature: _gone, ...rest }) => rest);

    await expectRefused('ck-1', trust('required'), /is not signed/);
  });
});
