import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { objectContext } from '../core/checkpoint/encryption.ts';
import { openLocalBackend } from '../store/backend/local.ts';
import { nodeEnv, readConfig, sidecarEnv } from './config.ts';
import { keyed, keyRingOf, signaturesOf } from './keys.ts';

const never = new AbortController().signal;
let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-worker-keys-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

function sidecar(env: Record<string, string>): ReturnType<typeof keyRingOf> {
  return keyRingOf(readConfig(sidecarEnv, { KYBERNATE_STORE: `file://${dir}/store`, ...env }));
}

/** A key service: wraps by putting a word before the key. */
async function keyService(unwrap = 'cut -c6-'): Promise<string> {
  const path = join(dir, 'kms');
  const script = `#!/bin/sh\ncase "$2" in\nwrap) (printf 'word '; cat) | base64 -w0 ;;\nunwrap) base64 -d | ${unwrap} ;;\nesac\n`;
  await writeFile(path, script, { mode: 0o700 });
  return JSON.stringify([path, '--key=a b']);
}

describe('the key-encryption key of a process', () => {
  it('is none when nothing is set', async () => {
    expect(await sidecar({})).toBeUndefined();
    const open = keyed(() => openLocalBackend(join(dir, 'store')), undefined);
    expect((await open()).keys).toBeUndefined();
  });

  it('comes from the environment, for every process that opens what is stored', async () => {
    const KYBERNATE_ENCRYPTION_KEY = randomBytes(32).toString('base64');

    const ring = await sidecar({ KYBERNATE_ENCRYPTION_KEY });
    const other = await keyRingOf(readConfig(nodeEnv, { KYBERNATE_ENCRYPTION_KEY }));

    expect(ring?.current.id).toMatch(/^[0-9a-f]{16}$/);
    expect(other?.current.id).toBe(ring?.current.id);
  });

  it('stays behind a real program, which is started without a shell', async () => {
    const env = { KYBERNATE_ENCRYPTION_KEY_COMMAND: await keyService(), KYBERNATE_ENCRYPTION_KEY_ID: 'service-1' };
    const ring = await sidecar(env);
    const open = keyed(() => openLocalBackend(join(dir, 'store')), ring);

    const sealer = await (await open()).keys?.newDataKey(never);
    const sealed = sealer?.seal(objectContext('x'), Buffer.from('secret')) ?? new Uint8Array();

    const again = await keyed(() => openLocalBackend(join(dir, 'store')), await sidecar(env))();
    const opener = await again.keys?.dataKey(sealer?.keyId ?? '', never);
    expect(Buffer.from(opener?.open(objectContext('x'), sealed) ?? []).toString()).toBe('secret');
    expect((await stat(join(dir, 'store/keys', sealer?.keyId ?? '', 'service-1.json'))).isFile()).toBe(true);
  });

  it('behind a program that fails is an error that may pass, and names key and program', async () => {
    const env = { KYBERNATE_ENCRYPTION_KEY_COMMAND: '["/nowhere/kms"]', KYBERNATE_ENCRYPTION_KEY_ID: 'service-1' };
    const backend = await keyed(() => openLocalBackend(join(dir, 'store')), await sidecar(env))();

    await expect(backend.keys?.newDataKey(never)).rejects.toMatchObject({
      type: 'StorageUnavailable',
      message: expect.stringMatching(/key service-1: \/nowhere\/kms wrap failed/),
    });
  });

  it('behind a program that gives back another key is found', async () => {
    const KYBERNATE_ENCRYPTION_KEY_ID = 'service-1';
    const right = { KYBERNATE_ENCRYPTION_KEY_COMMAND: await keyService(), KYBERNATE_ENCRYPTION_KEY_ID };
    const backend = await keyed(() => openLocalBackend(join(dir, 'store')), await sidecar(right))();
    const { keyId } = (await backend.keys?.newDataKey(never)) ?? { keyId: '' };
    const wrong = {
      KYBERNATE_ENCRYPTION_KEY_COMMAND: await keyService('cut -c6- | tr A-Za-z a-zA-Z'),
      KYBERNATE_ENCRYPTION_KEY_ID,
    };
    const other = await keyed(() => openLocalBackend(join(dir, 'store')), await sidecar(wrong))();

    await expect(other.keys?.dataKey(keyId, never)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });
});

describe('signatures of a node', () => {
  const node = (env: Record<string, string>): ReturnType<typeof signaturesOf> =>
    signaturesOf(readConfig(nodeEnv, { KYBERNATE_STATE_DIR: dir, ...env }));

  it('are accepted and not made when nothing is set; nothing is remembered then', async () => {
    const { trust, signingKey } = await node({});

    expect(signingKey).toBeUndefined();
    expect(trust.mode).toBe('accept');
    expect(trust.seen).toBeUndefined();
  });

  it('are not required of nobody', async () => {
    await expect(node({ KYBERNATE_SIGNATURES: 'required' })).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it.runIf(process.geteuid?.() === 0)('of its own key are trusted, and what it trusts is remembered', async () => {
    const path = join(dir, 'signing.pem');
    const { privateKey } = generateKeyPairSync('ed25519');
    await writeFile(path, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });

    const { trust, signingKey } = await node({ KYBERNATE_SIGNATURES: 'required', KYBERNATE_SIGNING_KEY: path });

    expect([...trust.keys.keys()]).toEqual([signingKey?.keyId]);
    expect(trust.seen).toBeDefined();
  });
});
