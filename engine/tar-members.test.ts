import { execFileSync } from 'node:child_process';
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readTarMembers, type TarMember } from './tar-members.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-tar-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

async function members(file: string): Promise<TarMember[]> {
  const all: TarMember[] = [];
  for await (const member of readTarMembers(file)) {
    all.push(member);
  }
  return all;
}

function pack(format: string): string {
  const long = `d/${'x'.repeat(90)}/${'y'.repeat(120)}`;
  mkdirSync(join(dir, `in/d/${'x'.repeat(90)}`), { recursive: true });
  writeFileSync(join(dir, 'in/d/plain'), 'content');
  writeFileSync(join(dir, 'in', long), 'long');
  linkSync(join(dir, 'in/d/plain'), join(dir, 'in/d/twin'));
  symlinkSync('../elsewhere', join(dir, 'in/d/link'));
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/in/d/l`), Buffer.from([0xe9])]), 'latin1 name');
  writeFileSync(join(dir, 'in/d/sparse'), 'x');
  truncateSync(join(dir, 'in/d/sparse'), 3_000_000);
  const tar = join(dir, 'a.tar');
  execFileSync('tar', [
    '--create',
    '--sparse',
    '--sort=name',
    `--format=${format}`,
    `--directory=${dir}/in`,
    `--file=${tar}`,
    '.',
  ]);
  return tar;
}

test.each(['posix', 'pax'])('names, kinds and links are those that tar itself packed (%s)', async (format) => {
  const found = await members(pack(format));

  expect(found.map(({ name, type, link }) => [name, type, type === 'file' ? '' : link])).toEqual(
    [
      ['', 'directory', ''],
      ['d', 'directory', ''],
      ['d/link', 'symlink', '../elsewhere'],
      ['d/l\u00e9', 'file', ''],
      ['d/plain', 'file', ''],
      ['d/sparse', 'file', ''],
      ['d/twin', 'hardlink', './d/plain'],
      [`d/${'x'.repeat(90)}`, 'directory', ''],
      [`d/${'x'.repeat(90)}/${'y'.repeat(120)}`, 'file', ''],
    ].sort(
      ([left = ''], [right = '']) => found.findIndex((m) => m.name === left) - found.findIndex((m) => m.name === right),
    ),
  );
});

test('long names of the GNU format are read too', async () => {
  writeFileSync(join(dir, 'z'.repeat(150)), '');
  const tar = join(dir, 'gnu.tar');
  execFileSync('tar', ['--create', '--format=gnu', `--directory=${dir}`, `--file=${tar}`, 'z'.repeat(150)]);

  expect((await members(tar)).map(({ name }) => name)).toEqual(['z'.repeat(150)]);
});

test('members lie end to end and cover the archive up to its end mark', async () => {
  const tar = pack('posix');
  const found = await members(tar);
  const bytes = readFileSync(tar);

  let end = 0;
  for (const member of found) {
    expect(member.start).toBe(end);
    end = member.end;
  }
  expect(bytes.subarray(end, end + 1024).every((byte) => byte === 0)).toBe(true);
});

test('an archive cut anywhere before its end mark is refused', async () => {
  const tar = pack('posix');
  const whole = readFileSync(tar);
  const end = (await members(tar)).at(-1)?.end ?? 0;

  for (let length = 0; length < end; length += 256) {
    writeFileSync(tar, whole.subarray(0, length));
    await expect(members(tar), `cut at ${length}`).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  }
});

test('what is no archive is refused', async () => {
  const file = join(dir, 'noise');
  writeFileSync(file, Buffer.alloc(2048, 'noise'));

  await expect(members(file)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
});
