import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pathBelow, type Root } from './transfer-paths.ts';

let dir: string;
let roots: Root[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-roots-'));
  await mkdir(join(dir, 'reached/a/b'), { recursive: true, mode: 0o755 });
  await mkdir(join(dir, 'secret'));
  await symlink(join(dir, 'secret'), join(dir, 'reached/link'));
  await symlink(join(dir, 'secret'), join(dir, 'reached/a/link'));
  await writeFile(join(dir, 'reached/file'), '');
  await mkdir(join(dir, 'reached/open'));
  await chmod(join(dir, 'reached/open'), 0o777);
  roots = [{ dir: '/named', path: join(dir, 'reached') }];
});
afterEach(() => rm(dir, { recursive: true, force: true }));

describe('pathBelow', () => {
  it('gives the path by which the process reaches it', async () => {
    expect(await pathBelow(roots, '/named/a/b')).toBe(join(dir, 'reached/a/b'));
    expect(await pathBelow(roots, '/named/a/./b/')).toBe(join(dir, 'reached/a/b'));
    expect(await pathBelow(roots, '/named/a/new', 1)).toBe(join(dir, 'reached/a/new'));
  });

  it.each([
    ['a path outside', '/elsewhere/a'],
    ['the root itself', '/named'],
    ['a name that begins like the root', '/named-not/a'],
    ['a way up', '/named/a/../../secret'],
    ['a symbolic link', '/named/link'],
    ['a symbolic link on the way', '/named/a/link/x'],
    ['a file', '/named/file'],
    ['a directory that everybody may write', '/named/open'],
    ['what does not exist', '/named/a/new'],
  ])('refuses %s', async (_, path) => {
    await expect(pathBelow(roots, path)).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it('lets only the last part be missing', async () => {
    await expect(pathBelow(roots, '/named/new/newer', 1)).rejects.toMatchObject({ type: 'InvalidInput' });
  });
});
