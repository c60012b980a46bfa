/* A node that signs and demands signatures, over an encrypted store: what lies there, and who may restore it. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { generateEncryptionKey, generateSigningKey } from '../../store/crypto/generate.ts';
import { COUNTER, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { BUSYBOX, Stack } from '../harness/stack.ts';

const TOKEN = `token-${Math.random().toString(36).slice(2)}-of-the-workload`;

let keys: string;
let stack: Stack;

beforeAll(async () => {
  keys = mkdtempSync(join(tmpdir(), 'kybernate-keys-'));
  await generateEncryptionKey(join(keys, 'store.key'));
  await generateEncryptionKey(join(keys, 'other.key'));
  await generateSigningKey(join(keys, 'signing.pem'), join(keys, 'signing.pub.pem'));
  await generateSigningKey(join(keys, 'foreign.pem'), join(keys, 'foreign.pub.pem'));
  stack = await Stack.open({
    env: {
      KYBERNATE_ENCRYPTION_KEY_FILE: join(keys, 'store.key'),
      KYBERNATE_SIGNING_KEY: join(keys, 'signing.pem'),
      KYBERNATE_SIGNATURES: 'required',
    },
  });
  // In the memory of the shell, in its environment, and in a file.
  const [shell = '', flag = '', script = ''] = COUNTER;
  const flags = ['--env', `PASSWORD=${TOKEN}`];
  await stack.runContainer('secret', BUSYBOX, [shell, flag, `echo $PASSWORD > /root-token; ${script}`], flags);
});
afterAll(async () => {
  await stack.close();
  rmSync(keys, { recursive: true });
});

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Files that hold the token. */
function tellTales(dir: string): string[] {
  return filesBelow(dir).filter((path) => readFileSync(path).includes(TOKEN));
}

function localFile(checkpointId: string, name: string): string {
  return join(stack.stateDir, 'checkpoints', `checkpoint-${checkpointId}`, name);
}

async function restart(changes: Readonly<Record<string, string>>): Promise<void> {
  Object.assign(stack.variables, changes);
  await stack.changeStateDir(stack.stateDir);
}

it('a checkpoint is signed and sealed, comes back, and is refused to those who should not have it', async () => {
  await countsOn(stack, 'secret');
  const { checkpointId } = await stack.checkpoint('secret', { durability: 'verified' });

  expect(tellTales(join(stack.stateDir, 'checkpoints')).length).toBeGreaterThan(1);
  expect(filesBelow(stack.storeDir).length).toBeGreaterThan(5);
  expect(tellTales(stack.storeDir)).toEqual([]);

  const signature = localFile(checkpointId, OWN_FILES.signature);
  renameSync(signature, join(keys, 'taken-away'));
  await expect(stack.restore(checkpointId, 'unsigned')).rejects.toMatchObject({ type: 'SignatureInvalid' });
  renameSync(join(keys, 'taken-away'), signature);
  expect((await stack.restore(checkpointId, 'from-local')).from).toBe('local');
  await countsOn(stack, 'from-local');

  stack.removeLocal(checkpointId);
  expect((await stack.restore(checkpointId, 'from-store')).from).toBe('store');
  await countsOn(stack, 'from-store');
  expect((await stack.read('from-store', '/root-token')).trim()).toBe(TOKEN);
  expect(readFileSync(localFile(checkpointId, OWN_FILES.signature), 'utf8')).toContain('ed25519');
  stack.removeLocal(checkpointId);

  await restart({ KYBERNATE_SIGNING_KEY: join(keys, 'foreign.pem') });
  await expect(stack.restore(checkpointId, 'foreign')).rejects.toMatchObject({ type: 'SignatureInvalid' });
  await restart({ KYBERNATE_TRUSTED_KEYS: join(keys, 'signing.pub.pem') });
  expect((await stack.restore(checkpointId, 'trusted')).from).toBe('store');
  await countsOn(stack, 'trusted');
  stack.removeLocal(checkpointId);

  await restart({ KYBERNATE_ENCRYPTION_KEY_FILE: join(keys, 'other.key') });
  await expect(stack.restore(checkpointId, 'no-key')).rejects.toMatchObject({ type: 'KeyUnavailable' });
  expect(stack.localCheckpoints()).toEqual([]);
  mkdirSync(join(keys, 'old'));
  renameSync(join(keys, 'store.key'), join(keys, 'old', 'store.key'));
  await restart({ KYBERNATE_ENCRYPTION_OLD_KEYS: join(keys, 'old') });
  expect((await stack.restore(checkpointId, 'old-key')).from).toBe('store');
  await countsOn(stack, 'old-key');
  await nothingLeft(stack, [checkpointId]);
}, 240_000);
