import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { commandKey, localKey, openKeyRing, parseKey, type RunCommand } from './key-ring.ts';

const key = randomBytes(32);
const inner = randomBytes(32);
const noCommand: RunCommand = () => Promise.reject(new Error('no command was expected'));
let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-keys-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function keyFile(name: string, content: string | Uint8Array, mode = 0o600): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, content);
  await chmod(path, mode);
  return path;
}

describe('a key-encryption key', () => {
  it('unwraps what it has wrapped, and nothing else', async () => {
    const wrapping = localKey(key);
    const wrapped = await wrapping.wrap(inner);

    expect(await wrapping.unwrap(wrapped)).toEqual(inner);
    expect(await localKey(randomBytes(32)).unwrap(wrapped)).toBeUndefined();
    for (let at = 0; at < wrapped.length; at += 1) {
      const changed = Buffer.from(wrapped);
      changed[at] = (changed[at] ?? 0) ^ 4;
      expect(await wrapping.unwrap(changed)).toBeUndefined();
    }
    expect(await wrapping.unwrap(wrapped.subarray(0, 32))).toBeUndefined();
    expect(await wrapping.unwrap(new Uint8Array())).toBeUndefined();
  });

  it.each([
    ['bytes', key],
    ['hexadecimal', Buffer.from(`${key.toString('hex')}\n`)],
    ['base64', Buffer.from(`${key.toString('base64')}\n`)],
  ])('is read from %s', (_, content) => {
    expect(Buffer.from(parseKey(content, 'x')).equals(key)).toBe(true);
  });

  it.each([
    ['too short', key.subarray(1)],
    ['no text', Buffer.from('not a key at all')],
    ['empty', Buffer.alloc(0)],
  ])('that is %s is refused, and not quoted', (_, content) => {
    const read = (): unknown => parseKey(content, 'KYBERNATE_ENCRYPTION_KEY');
    expect(read).toThrow(/KYBERNATE_ENCRYPTION_KEY is no key/);
    expect(read).not.toThrow(/not a key at all/);
  });
});

describe('openKeyRing', () => {
  it('is no ring without a setting', async () => {
    expect(await openKeyRing({}, noCommand)).toBeUndefined();
  });

  it('has the current key and the old ones', async () => {
    const old = randomBytes(32);
    await mkdir(join(dir, 'old'));
    await writeFile(join(dir, 'old', 'first.key'), old, { mode: 0o600 });

    const ring = await openKeyRing({ key: key.toString('hex'), oldKeys: join(dir, 'old') }, noCommand);

    expect(ring?.current.id).toBe(localKey(key).id);
    expect([...(ring?.all.keys() ?? [])]).toEqual([localKey(key).id, localKey(old).id]);
  });

  it.each([0o640, 0o604, 0o660])('refuses a key file of mode %o', async (mode) => {
    const keyPath = await keyFile('kek', key, mode);

    await expect(openKeyRing({ keyFile: keyPath }, noCommand)).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining(`mode 0${mode.toString(8)}`),
    });
  });

  it.runIf(process.geteuid?.() === 0)("refuses a key file that is somebody else's", async () => {
    const keyPath = await keyFile('kek', key);
    await chown(keyPath, 12_345, 0);

    await expect(openKeyRing({ keyFile: keyPath }, noCommand)).rejects.toThrow(/belongs to uid 12345/);
  });

  it.each([
    ['two sources', { key: key.toString('hex'), keyFile: '/nowhere' }, /not several/],
    ['a missing file', { keyFile: '/nowhere/key' }, /KYBERNATE_ENCRYPTION_KEY_FILE: \/nowhere\/key cannot be read/],
    ['old keys alone', { oldKeys: '/nowhere' }, /without a current key/],
    ['a command that is no list', { keyCommand: 'kms wrap', keyCommandId: 'kms' }, /JSON array/],
    ['a command without the name of its key', { keyCommand: '["kms"]' }, /KYBERNATE_ENCRYPTION_KEY_ID/],
  ])('refuses %s', async (_, settings, message) => {
    await expect(openKeyRing(settings, noCommand)).rejects.toThrow(message);
  });
});

describe('a key behind a command', () => {
  const answer = (stdout: string, exitCode = 0): RunCommand => {
    return () => Promise.resolve({ exitCode, timedOut: false, stdout, stderr: 'token expired\n' });
  };

  it('gets the verb as last argument and base64 on its input', async () => {
    const calls: unknown[] = [];
    const run: RunCommand = (file, args, { input }) => {
      calls.push([file, args, input.trim()]);
      return Promise.resolve({ exitCode: 0, timedOut: false, stdout: `${input.trim()}\n`, stderr: '' });
    };
    const wrapping = commandKey(['/bin/kms', '--key', 'a b'], 'kms-1', run);

    expect(await wrapping.unwrap(await wrapping.wrap(inner))).toEqual(inner);
    const text = inner.toString('base64');
    expect(calls).toEqual([
      ['/bin/kms', ['--key', 'a b', 'wrap'], text],
      ['/bin/kms', ['--key', 'a b', 'unwrap'], text],
    ]);
  });

  it.each([
    ['fails', answer('', 3), /exit code 3: token expired/],
    ['prints something else', answer('error: no such key\n'), /it printed no base64/],
    ['prints without end', answer('A'.repeat(20_000)), /kms wrap failed/],
  ])('that %s is an error that may pass', async (_, run, message) => {
    const wrapping = commandKey(['/bin/kms'], 'kms-1', run);

    const failed = expect(wrapping.wrap(inner)).rejects;
    await failed.toMatchObject({ type: 'StorageUnavailable', message: expect.stringMatching(message) });
  });
});
