import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { overlayAt, rememberRootfs, revertRootfs, unrevertable } from './pristine-rootfs.ts';

const LINE =
  '1337 28 0:71 / /b/root\\040fs rw,relatime shared:9 - overlay overlay ' +
  'rw,lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/3/fs,workdir=/s/3/work,index=off,uuid=on,nouserxattr';

it('overlayAt gives the options that mount takes back, of the topmost mount of the path', () => {
  const below = '1336 28 8:1 / /b/root\\040fs rw - ext4 /dev/vda rw';

  expect(overlayAt('/b/root fs', `${below}\n${LINE}\n`)).toEqual({
    upperDir: '/s/3/fs',
    options: 'lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/3/fs,workdir=/s/3/work,index=off,uuid=on',
  });
});

it.each([
  ['another file system lies on top', '/b/root fs', `${LINE}\n1338 28 8:1 / /b/root\\040fs rw - ext4 /dev/vda rw`],
  ['nothing is mounted there', '/b/rootfs', LINE],
  ['the layers are named from a directory that we do not know', '/b/root fs', LINE.replace('/s/2/fs:', 's/2/fs:')],
])('overlayAt gives nothing when %s', (_title, path, mountInfo) => {
  expect(overlayAt(path, mountInfo)).toBeUndefined();
});

it('revertRootfs unmounts, empties the upper directory and mounts again; never while it is mounted', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pristine-'));
  const upper = join(dir, 'upper');
  mkdirSync(upper);
  const options = `lowerdir=${dir}/lower,upperdir=${upper},workdir=${dir}/work`;
  const pristine = rememberRootfs(dir, `1 2 0:1 / ${dir} rw - overlay overlay rw,${options}\n`);
  writeFileSync(join(upper, 'from-the-checkpoint'), '');
  const calls: string[] = [];

  await revertRootfs(pristine, (program, args) => {
    calls.push(`${program} ${args.join(' ')}; upper holds ${readdirSync(upper).length}`);
    return Promise.resolve({
      exitCode: 0,
      timedOut: false,
      cancelled: false,
      forceKilled: false,
      durationMs: 0,
      stdout: '',
      stderr: '',
    });
  });

  expect(calls).toEqual([
    `umount ${dir}; upper holds 1`,
    `mount -t overlay overlay -o ${options} ${dir}; upper holds 0`,
  ]);
  rmSync(dir, { recursive: true });
});

it('a root whose upper directory held something before, or that is no overlay, cannot be reverted', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pristine-'));
  mkdirSync(join(dir, 'upper'));
  writeFileSync(join(dir, 'upper/older'), '');
  const line = `1 2 0:1 / ${dir} rw - overlay overlay rw,lowerdir=/l,upperdir=${dir}/upper,workdir=${dir}/work\n`;

  for (const pristine of [rememberRootfs(dir, line), rememberRootfs(dir, ''), unrevertable(dir)]) {
    await expect(revertRootfs(pristine, () => Promise.reject(new Error('nothing may run')))).rejects.toThrow(
      /no overlay/,
    );
  }
  rmSync(dir, { recursive: true });
});
