import { chmodSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openNoFollow, shareTree } from './sharing.ts';

/** Any group will do for root; others can give files only to their own. */
const GROUP = process.getuid?.() === 0 ? 58_713 : (process.getgid?.() ?? 0);

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-sharing-'));
  mkdirSync(join(dir, 'checkpoint/criu'), { recursive: true, mode: 0o700 });
  writeFileSync(join(dir, 'checkpoint/criu/pages-1.img'), '', { mode: 0o600 });
  writeFileSync(join(dir, 'secret'), '', { mode: 0o600 });
  chmodSync(join(dir, 'secret'), 0o600);
});
afterEach(() => rmSync(dir, { recursive: true }));

function modeOf(path: string): [number, number] {
  const { gid, mode } = lstatSync(join(dir, path));
  return [gid, mode & 0o7777];
}

it('files of a checkpoint are readable by the group and written by nobody else', async () => {
  await shareTree(join(dir, 'checkpoint'), GROUP);

  expect(modeOf('checkpoint')).toEqual([GROUP, 0o750]);
  expect(modeOf('checkpoint/criu')).toEqual([GROUP, 0o750]);
  expect(modeOf('checkpoint/criu/pages-1.img')).toEqual([GROUP, 0o640]);
});

it('a file that a symbolic link names stays closed', async () => {
  symlinkSync(join(dir, 'secret'), join(dir, 'checkpoint/link'));
  const before = modeOf('secret');

  await shareTree(join(dir, 'checkpoint'), GROUP);

  expect(modeOf('secret')).toEqual(before);
  await expect(openNoFollow(join(dir, 'checkpoint/link'))).rejects.toMatchObject({ code: 'ELOOP' });
});
