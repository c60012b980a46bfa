import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Metadata } from '../core/checkpoint/metadata.ts';
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

describe('resolveSource for a pod', () => {
  const pod = { namespace: 'shop', name: 'web-0', container: 'app', named: false };
  const wish = { restoreFrom: 'ck-1', origin: 'annotation', unverified: false, pod } as const;
  let done: string[];

  beforeEach(() => (done = []));

  /** Its metadata is not looked at by a schema before it is here. */
  function resolving(
    owner: { namespace: string; container: string } | undefined,
    more: { readonly pod?: object; readonly grants?: Array<{ to: string; from: string }> } = {},
  ): ReturnType<typeof resolveSource> {
    const settings = {
      stateDir: join(dir, 'state'),
      restoreRoots: [root],
      restoreFromEnvironment: false,
      restoreGrants: more.grants ?? [],
    };
    const metadata = {
      checkpointId: 'ck-1',
      container: owner === undefined ? {} : { pod: owner },
    } as Metadata;
    const access = {
      describe: () => Promise.resolve({ metadata, spec: {} }),
      fetchCheckpoint: () => {
        done.push('fetched');
        return Promise.reject(new KybernateError('RestorePending', '43 %'));
      },
    };
    const look = (): Promise<void> => {
      done.push('looked at');
      return Promise.resolve();
    };
    return resolveSource(settings, access, { ...wish, pod: { ...pod, ...more.pod } }, { look });
  }

  it('looks at what the checkpoint says of itself before it is brought', async () => {
    await expect(resolving({ namespace: 'shop', container: 'app' })).rejects.toMatchObject({ type: 'RestorePending' });

    expect(done).toEqual(['looked at', 'fetched']);
  });

  it.each([
    ['of another namespace', { namespace: 'bank', container: 'app' }, /belongs to namespace bank.*RESTORE_GRANTS/],
    ['of no pod', undefined, /belongs to no pod/],
    [
      'of another container of the pod',
      { namespace: 'shop', container: 'db' },
      /annotation kybernate.io\/restore-from.app/,
    ],
  ])('refuses a checkpoint %s, and brings nothing', async (_title, owner, why) => {
    await expect(resolving(owner)).rejects.toMatchObject({
      type: 'RestoreRefused',
      message: expect.stringMatching(why) as string,
    });
    expect(done).toEqual([]);
  });

  it('takes what the node grants, and another container where the annotation names it', async () => {
    const pending = { type: 'RestorePending' };
    const grants = [{ to: 'shop', from: 'bank' }];

    await expect(resolving({ namespace: 'bank', container: 'app' }, { grants })).rejects.toMatchObject(pending);
    await expect(resolving({ namespace: 'shop', container: 'db' }, { pod: { named: true } })).rejects.toMatchObject(
      pending,
    );
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
