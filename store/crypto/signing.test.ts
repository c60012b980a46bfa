import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import type { SignatureMode } from '../../core/checkpoint/signature.ts';
import { makeCheckpoint, testOp } from '../../test/harness/checkpoint-dir.ts';
import {
  checkDirectorySignature,
  openTrust,
  readSigningKey,
  signDirectory,
  signingKeyId,
  type SigningKey,
  type TrustPolicy,
} from './signing.ts';

let root = '';
let dir = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-sign-'));
  dir = join(root, 'ck-1');
  await makeCheckpoint(dir, 'ck-1', { 'config.json': '{}' });
});
afterEach(() => rm(root, { recursive: true, force: true }));

function newKey(): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return { keyId: signingKeyId(publicKey), privateKey, publicKey };
}

function trust(mode: SignatureMode, ...keys: SigningKey[]): TrustPolicy {
  return { mode, keys: new Map(keys.map(({ keyId, publicKey }) => [keyId, publicKey])) };
}

async function signed(key: SigningKey): Promise<void> {
  await signDirectory(dir, await readFile(join(dir, METADATA_FILE), 'utf8'), key);
}

async function change(name: string, edit: (text: string) => string): Promise<void> {
  const path = join(dir, name);
  await writeFile(path, edit(await readFile(path, 'utf8')));
}

function check(policy: TrustPolicy, op = testOp()): Promise<void> {
  return checkDirectorySignature(dir, policy, op);
}

const ours = newKey();
const foreign = newKey();
const SIGNATURE_INVALID = { type: 'SignatureInvalid' };

describe('checkDirectorySignature', () => {
  it('accepts what a trusted key has signed', async () => {
    await signed(ours);

    await check(trust('required', foreign, ours));
    await check(trust('accept', ours));
  });

  it('refuses an unsigned checkpoint only where signatures are required', async () => {
    await check(trust('off'));
    await check(trust('accept', ours));
    await expect(check(trust('required', ours))).rejects.toMatchObject({
      ...SIGNATURE_INVALID,
      message: expect.stringContaining('is not signed'),
    });
  });

  it('refuses a foreign signature where signatures are required, and names both keys', async () => {
    await signed(foreign);

    await expect(check(trust('required', ours))).rejects.toMatchObject({
      ...SIGNATURE_INVALID,
      message: expect.stringContaining(foreign.keyId),
      details: { trusted: [ours.keyId] },
    });
  });

  it('tells of a foreign signature where any is accepted', async () => {
    await signed(foreign);
    const op = testOp();

    await check(trust('accept', ours), op);

    expect(op.warnings).toEqual(['signed by keys that this node does not know']);
  });

  it.each([
    ['metadata', METADATA_FILE, (text: string) => text.replace('"team":"a"', '"team":"b"'), 'metadataDigest'],
    ['the file list', OWN_FILES.manifest, (text: string) => `${text} `, 'filesDigest'],
    ['its id', METADATA_FILE, (text: string) => text.replace('ck-1', 'ck-2'), 'checkpointId'],
  ])('finds that %s was changed after the signature', async (_, name, edit, field) => {
    await signed(ours);
    await change(name, edit);

    const refused = { ...SIGNATURE_INVALID, message: expect.stringContaining(field) };
    await expect(check(trust('required', ours))).rejects.toMatchObject(refused);
    await expect(check(trust('accept'))).rejects.toMatchObject(refused);
    await check(trust('off'));
  });

  it('finds a flipped bit in every byte of a signature, a changed statement and a changed key id', async () => {
    await signed(ours);
    const text = await readFile(join(dir, OWN_FILES.signature), 'utf8');
    const letters = /"signature": "([^"]+)"/.exec(text)?.[1] ?? '';
    const bytes = Buffer.from(letters, 'base64');

    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ (1 << (at & 7));
      await writeFile(join(dir, OWN_FILES.signature), text.replace(letters, changed.toString('base64')));
      await expect(check(trust('accept', ours))).rejects.toMatchObject(SIGNATURE_INVALID);
    }
    await writeFile(join(dir, OWN_FILES.signature), text.replaceAll(ours.keyId, foreign.keyId));
    await expect(check(trust('required', ours, foreign))).rejects.toThrow(/forged/);
    await writeFile(join(dir, OWN_FILES.signature), 'no json');
    await expect(check(trust('required', ours))).rejects.toMatchObject(SIGNATURE_INVALID);
  });
});

describe('keys in files', () => {
  async function keyFiles(key: SigningKey): Promise<{ secret: string; open: string }> {
    const secret = join(root, 'signing.pem');
    const open = join(root, 'trusted', 'signing.pem');
    await mkdir(join(root, 'trusted'), { recursive: true });
    await writeFile(secret, pem(key.privateKey, 'pkcs8'), { mode: 0o600 });
    await writeFile(open, pem(key.publicKey, 'spki'), { mode: 0o644 });
    return { secret, open };
  }

  function pem(key: KeyObject, type: 'pkcs8' | 'spki'): string {
    return key.export({ type, format: 'pem' }).toString();
  }

  it.runIf(process.geteuid?.() === 0)('are read where they belong to root', async () => {
    const { secret, open } = await keyFiles(ours);
    const key = await readSigningKey(secret);
    await signed(key);

    const byFile = await openTrust({ mode: 'required', trustedKeys: open });
    const byDirectory = await openTrust({ mode: 'required', trustedKeys: join(root, 'trusted') });
    const bySelf = await openTrust({ mode: 'required', signingKey: key });

    expect(key.keyId).toBe(ours.keyId);
    await check(byFile);
    await check(byDirectory);
    await check(bySelf);
  });

  it.runIf(process.geteuid?.() === 0)('of others, or open to others, are refused', async () => {
    const { secret, open } = await keyFiles(ours);
    await chmod(secret, 0o640);
    await chmod(open, 0o666);

    await expect(readSigningKey(secret)).rejects.toThrow(/mode 0640; it must belong to root, mode 0600/);
    await expect(openTrust({ mode: 'accept', trustedKeys: open })).rejects.toThrow(/not writable by others/);
    await chmod(secret, 0o600);
    await chown(secret, 12_345, 0);
    await expect(readSigningKey(secret)).rejects.toThrow(/belongs to uid 12345/);
  });

  it('of another kind are refused', async () => {
    const path = join(root, 'rsa.pem');
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    await writeFile(path, pem(publicKey, 'spki'), { mode: 0o600 });

    await expect(openTrust({ mode: 'accept', trustedKeys: path })).rejects.toThrow(/not a public key of Ed25519/);
    await writeFile(path, 'secret words');
    await expect(openTrust({ mode: 'accept', trustedKeys: path })).rejects.not.toThrow(/secret words/);
  });

  it('are needed where signatures are required', async () => {
    await expect(openTrust({ mode: 'required' })).rejects.toThrow(/no key is trusted/);
    await expect(openTrust({ mode: 'accept', trustedKeys: '/nowhere' })).rejects.toMatchObject({
      type: 'InvalidInput',
    });
  });
});
