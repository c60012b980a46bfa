import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DIGEST_FILE, installPayload, removeOldVersions } from './payload.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-payload-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

function tree(digest: string): string {
  const path = join(dir, `tree-${digest}`);
  mkdirSync(join(path, 'bin'), { recursive: true });
  writeFileSync(join(path, 'bin/node'), digest);
  writeFileSync(join(path, DIGEST_FILE), `${digest}\n`);
  return path;
}

describe('the tree on a node', () => {
  it('lies under its digest, and `current` leads to the newest', async () => {
    const host = join(dir, 'host');

    const first = await installPayload(tree('aaaaaaaa'), host);
    const second = await installPayload(tree('bbbbbbbb'), host);

    expect([first, second]).toEqual([join(host, 'versions/aaaaaaaa'), join(host, 'versions/bbbbbbbb')]);
    expect(readlinkSync(join(host, 'current'))).toBe('versions/bbbbbbbb');
    expect(readFileSync(join(host, 'current/bin/node'), 'utf8')).toBe('bbbbbbbb');
  });

  it('is not copied twice, and what a killed copy left is no version', async () => {
    const host = join(dir, 'host');
    mkdirSync(join(host, 'versions/aaaaaaaa.new/old'), { recursive: true });
    const path = await installPayload(tree('aaaaaaaa'), host);
    writeFileSync(join(path, 'mark'), '');

    await installPayload(tree('aaaaaaaa'), host);

    expect(existsSync(join(path, 'mark'))).toBe(true);
    expect(existsSync(join(path, 'old'))).toBe(false);
    expect(readdirSync(join(host, 'versions'))).toEqual(['aaaaaaaa']);
  });

  it('goes when a newer one is there and no process runs from it', async () => {
    const host = join(dir, 'host');
    await installPayload(tree('aaaaaaaa'), host);
    const keep = await installPayload(tree('bbbbbbbb'), host);

    expect(removeOldVersions(host, keep)).toEqual(['bbbbbbbb']);
    expect(readdirSync(join(host, 'versions'))).toEqual(['bbbbbbbb']);
    expect(removeOldVersions(host, undefined)).toEqual([]);
  });

  it.each([
    ['a tree without a digest', undefined],
    ['a digest that leads elsewhere', '../../etc'],
  ])('%s is refused', async (_, digest) => {
    const path = join(dir, 'tree');
    mkdirSync(path);
    if (digest !== undefined) {
      writeFileSync(join(path, DIGEST_FILE), digest);
    }

    await expect(installPayload(path, join(dir, 'host'))).rejects.toThrow(/digest/);
  });
});
