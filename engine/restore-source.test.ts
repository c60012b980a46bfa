import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { allowedPath, bareImageDir, readMetadata, resolveSource } from './restore-source.ts';

const UID = process.getuid?.() ?? 0;

let dir: string;
let root: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'source-'));
  root = join(dir, 'root');
  mkdirSync(join(root, 'images/criu'), { recursive: true, mode: 0o755 });
  writeFileSync(join(root, 'images/criu/inventory.img'), '');
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function refusal(path: string): unknown {
  try {
    return allowedPath([root], path, UID);
  } catch (error) {
    return error instanceof KybernateError ? error.type : error;
  }
}

describe('allowedPath', () => {
  it('gives the real path of a directory below a root, through the link that the root itself may be', () => {
    const link = join(dir, 'link-to-root');
    symlinkSync(root, link);

    expect(allowedPath(['/nowhere', link], join(link, 'images'), UID)).toBe(join(root, 'images'));
  });

  it.each([
    ['the root itself', (): string => root],
    ['a sibling whose name begins with that of the root', (): string => `${root}-other`],
    ['a directory outside', (): string => dir],
    ['a path that is not there', (): string => join(root, 'nothing')],
  ])('refuses %s', (_title, path) => {
    mkdirSync(`${root}-other`);

    expect(refusal(path())).toBe('RestoreRefused');
  });

  it('refuses a link that leads out, at any depth', () => {
    symlinkSync(dir, join(root, 'out'));
    symlinkSync('/etc', join(root, 'images/criu/etc'));

    expect(refusal(join(root, 'out'))).toBe('RestoreRefused');
    expect(refusal(join(root, 'images'))).toBe('RestoreRefused');
  });

  it('refuses what others can change: the root, a directory on the way, a file in it', () => {
    for (const path of [root, join(root, 'images'), join(root, 'images/criu/inventory.img')]) {
      chmodSync(path, 0o777);
      expect(refusal(join(root, 'images')), path).toBe('RestoreRefused');
      chmodSync(path, 0o755);
    }
    expect(refusal(join(root, 'images'))).toBe(join(root, 'images'));
  });

  it('refuses what belongs to somebody else', () => {
    expect(() => allowedPath([root], join(root, 'images'), UID + 1)).toThrow(/changed by others/);
  });
});

describe('resolveSource', () => {
  const settings = (allowed: boolean): Parameters<typeof resolveSource>[0] => ({
    stateDir: join(dir, 'state'),
    restoreRoots: [root],
    restoreFromEnvironment: allowed,
  });
  const access = {
    fetchCheckpoint: (id: string): Promise<string> => Promise.reject(new KybernateError('CheckpointNotFound', id)),
  };
  const wish = { restoreFrom: 'ck-1', origin: 'annotation', unverified: false } as const;

  it.each([
    ['the variable where it is switched off', false, { ...wish, origin: 'environment' as const }, /switched off/],
    ['a path in the variable', true, { ...wish, origin: 'environment' as const, restoreFrom: '/x' }, /ids only/],
    ['what is neither id nor path', true, { ...wish, restoreFrom: '../ck' }, /neither/],
    ['an id that leaves its directory', true, { ...wish, restoreFrom: 'a..b' }, /does not match/],
  ])('refuses %s', async (_title, allowed, asked, why) => {
    await expect(resolveSource(settings(allowed), access, asked)).rejects.toThrow(why);
  });

  it('asks the store for an id that is not on the node, and says when it has none either', async () => {
    await expect(resolveSource(settings(false), access, wish)).rejects.toMatchObject({ type: 'CheckpointNotFound' });
  });

  it('takes no bare images where only what is signed is restored', async () => {
    const bare = { ...wish, restoreFrom: join(root, 'images'), unverified: true };

    await expect(resolveSource(settings(false), access, bare)).resolves.toMatchObject({});
    await expect(resolveSource(settings(false), { ...access, signedOnly: true }, bare)).rejects.toMatchObject({
      type: 'SignatureInvalid',
    });
  });
});

describe('what lies there', () => {
  it('is a bare image at the path or in its criu directory', () => {
    expect(bareImageDir(join(root, 'images'))).toBe(join(root, 'images/criu'));
    expect(bareImageDir(join(root, 'images/criu'))).toBe(join(root, 'images/criu'));
    expect(() => bareImageDir(dir)).toThrow(/inventory/);
  });

  it.each([
    ['absent', undefined, 'CheckpointNotFound'],
    ['no JSON', '{', 'CheckpointCorrupt'],
    ['of an unknown version', '{"version":2}', 'CheckpointCorrupt'],
  ])('is no checkpoint when its metadata is %s', (_title, text, type) => {
    if (text !== undefined) {
      writeFileSync(join(dir, 'metadata.json'), text);
    }

    expect(() => readMetadata(dir)).toThrow(expect.objectContaining({ type }) as Error);
  });
});
