/* keys against real files and a real store in a directory. */
import { mkdir, mkdtemp, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { METADATA_FILE } from '../../core/checkpoint/file-names.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { openKeyRing } from '../../store/crypto/key-ring.ts';
import { checkDirectorySignature, openTrust, readSigningKey, signDirectory } from '../../store/crypto/signing.ts';
import { withKeys } from '../../store/crypto/vault.ts';
import { publishManifest } from '../../store/publish.ts';
import { makeCheckpoint, testOp } from '../../test/harness/checkpoint-dir.ts';
import { createFakeCli, type FakeCli } from '../../test/harness/fake-cli.ts';
import { run } from '../program.ts';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-keys-'));
});
afterEach(() => rm(root, { recursive: true }));

async function call(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ readonly code: number; readonly json: Record<string, unknown> }> {
  const here: FakeCli = createFakeCli({ env: { KYBERNATE_STORE: `file://${join(root, 'store')}`, ...env } });
  const code = await run([...args, '--json'], here.cli);
  return { code, json: JSON.parse(here.stdout()) as Record<string, unknown> };
}

function current(name: string, old?: string): Record<string, string> {
  return {
    KYBERNATE_ENCRYPTION_KEY_FILE: join(root, name),
    ...(old === undefined ? {} : { KYBERNATE_ENCRYPTION_OLD_KEYS: join(root, old) }),
  };
}

/** A checkpoint in the store, encrypted with the key in this file. */
async function storeOne(name: string): Promise<void> {
  const dir = join(root, 'ck-1');
  await makeCheckpoint(dir, 'ck-1');
  const ring = await openKeyRing({ keyFile: join(root, name) }, () => Promise.reject(new Error('no command')));
  const backend = await openLocalBackend(join(root, 'store'));
  await publishManifest({ checkpointId: 'ck-1', dir, backend: ring ? withKeys(backend, ring) : backend, op: testOp() });
}

describe('keys generate', () => {
  it('makes a key-encryption key that only its owner can read, and replaces no file', async () => {
    const out = join(root, 'store.key');

    const made = await call(['keys', 'generate', 'encryption', '--out', out]);
    const again = await call(['keys', 'generate', 'encryption', '--out', out]);

    expect(made).toMatchObject({ code: 0, json: { kind: 'encryption', secret: out } });
    expect((await stat(out)).mode & 0o777).toBe(0o600);
    expect(await readFile(out, 'utf8')).toMatch(/^[0-9a-f]{64}\n$/);
    expect(again).toMatchObject({ code: 2, json: { error: { type: 'InvalidInput' } } });
  });

  it.runIf(process.geteuid?.() === 0)('makes a pair of keys: one signs, the other is trusted', async () => {
    const out = join(root, 'signing.pem');
    const dir = join(root, 'ck-1');
    await makeCheckpoint(dir, 'ck-1');

    const { json } = await call(['keys', 'generate', 'signing', '--out', out]);

    const key = await readSigningKey(out);
    await signDirectory(dir, await readFile(join(dir, METADATA_FILE), 'utf8'), key);
    const trust = await openTrust({ mode: 'required', trustedKeys: `${out}.pub.pem` });
    await checkDirectorySignature(dir, trust, testOp());
    expect(json).toMatchObject({ keyId: key.keyId, public: `${out}.pub.pem` });
  });

  it('knows two kinds', async () => {
    expect(await call(['keys', 'generate', 'other', '--out', join(root, 'x')])).toMatchObject({ code: 2 });
  });
});

describe('an encrypted store', () => {
  beforeEach(async () => {
    await call(['keys', 'generate', 'encryption', '--out', join(root, 'one')]);
    await call(['keys', 'generate', 'encryption', '--out', join(root, 'two')]);
    await storeOne('one');
  });

  it('shows its keys to everybody, and its checkpoints to those who have the key', async () => {
    const listed = await call(['keys', 'list']);
    const withKey = await call(['inspect', 'ck-1', '--files'], current('one'));
    const without = await call(['inspect', 'ck-1']);
    const wrong = await call(['inspect', 'ck-1'], current('two'));

    expect(listed.json['keys']).toMatchObject([{ wrappedBy: [expect.any(String)] }, {}, {}]);
    expect(withKey).toMatchObject({ code: 0, json: { metadata: { checkpointId: 'ck-1' } } });
    expect(without).toMatchObject({ code: 23, json: { error: { type: 'KeyUnavailable' } } });
    expect(wrong).toMatchObject({ code: 23, json: { error: { type: 'KeyUnavailable' } } });
  });

  it('is rotated to another key, and the old one opens nothing once it is retired', async () => {
    await mkdir(join(root, 'old'));
    await rename(join(root, 'one'), join(root, 'old', 'one'));

    const rotated = await call(['keys', 'rotate'], current('two', 'old'));
    const retired = await call(['keys', 'rotate', '--retire'], current('two'));

    expect(rotated).toMatchObject({ code: 0, json: { keys: 3, added: 3, removed: 0 } });
    expect(retired).toMatchObject({ code: 0, json: { keys: 3, added: 0, removed: 3 } });
    expect((await call(['inspect', 'ck-1'], current('two'))).code).toBe(0);
    expect((await call(['inspect', 'ck-1'], current('old/one'))).code).toBe(23);
  });

  it('says which keys none of ours unwraps', async () => {
    const rotated = await call(['keys', 'rotate', '--retire'], current('two'));

    expect(rotated).toMatchObject({ code: 23, json: { error: { type: 'KeyUnavailable', details: { added: 0 } } } });
    expect((await call(['inspect', 'ck-1'], current('one'))).code).toBe(0);
  });

  it('is not rotated without a key', async () => {
    expect(await call(['keys', 'rotate'])).toMatchObject({ code: 2, json: { error: { type: 'InvalidInput' } } });
  });
});
