import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runExeca } from '../native/run/run-execa.ts';
import { applyRootfs } from './rootfs-apply.ts';
import { splitLayer } from './rootfs-diff-service.ts';
import type { Op } from '../core/op.ts';

let dir: string;
let rootfs: string;
let checkpoint: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-apply-'));
  rootfs = join(dir, 'rootfs');
  checkpoint = join(dir, 'checkpoint');
  mkdirSync(rootfs);
  mkdirSync(join(checkpoint, 'fs'), { recursive: true });
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

interface Member {
  readonly name: string;
  readonly type?: 'dir' | 'sym' | 'hard' | 'pax';
  readonly link?: string;
  readonly text?: string;
}

/** By hand: GNU tar would never pack what a hostile archive holds. */
function tarOf(file: string, members: readonly Member[]): void {
  writeFileSync(file, Buffer.concat([blocksOf(members), Buffer.alloc(1024)]));
}

function blocksOf(members: readonly Member[]): Buffer {
  const flags = { dir: '5', sym: '2', hard: '1', pax: 'x' };
  const blocks = members.map(({ name, type, link = '', text = '' }) => {
    const header = Buffer.alloc(512);
    const fields: ReadonlyArray<readonly [number, string]> = [
      [0, name],
      [100, '0000755\0'],
      [108, `${process.getuid?.().toString(8).padStart(7, '0')}\0`],
      [116, `${process.getgid?.().toString(8).padStart(7, '0')}\0`],
      [124, `${text.length.toString(8).padStart(11, '0')}\0`],
      [136, '00000000000\0'],
      [148, ' '.repeat(8)],
      [156, type === undefined ? '0' : flags[type]],
      [157, link],
      [257, 'ustar\u000000'],
    ];
    fields.forEach(([at, value]) => header.write(value, at, 'latin1'));
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return Buffer.concat([header, Buffer.from(text, 'latin1'), Buffer.alloc((512 - (text.length % 512)) % 512)]);
  });
  return Buffer.concat(blocks);
}

/** A header in the content of another member, which nobody looks at. */
const hidden = (): string => blocksOf([{ name: 'hidden', type: 'sym', link: '/etc' }]).toString('latin1');
const sparse: Member = {
  name: 'pax',
  type: 'pax',
  text: '22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n19 GNU.sparse.name=s\n28 GNU.sparse.realsize=1024\n',
};

const diff = (): string => join(checkpoint, 'fs/rootfs-diff.tar');
const apply = (): Promise<void> => applyRootfs(rootfs, checkpoint, runExeca);

test('deleted paths go first, then the archive comes', async () => {
  mkdirSync(join(rootfs, 'opt/d'), { recursive: true });
  writeFileSync(join(rootfs, 'opt/d/old'), 'old');
  writeFileSync(join(rootfs, 'gone'), 'gone');
  writeFileSync(join(checkpoint, 'fs/deleted.files'), JSON.stringify(['gone', 'opt/d', 'never/was']));
  tarOf(diff(), [
    { name: 'opt', type: 'dir' },
    { name: 'opt/d', type: 'dir' },
    { name: 'opt/d/new', text: 'new' },
    { name: 'opt/d/twin', type: 'hard', link: 'opt/d/new' },
  ]);

  await apply();
  await apply();

  expect(readdirSync(rootfs)).toEqual(['opt']);
  expect(readdirSync(join(rootfs, 'opt/d'))).toEqual(['new', 'twin']);
  expect(statSync(join(rootfs, 'opt/d/new')).ino).toBe(statSync(join(rootfs, 'opt/d/twin')).ino);
});

test('a file takes the place of a directory, and a directory that of a file or a link', async () => {
  mkdirSync(join(rootfs, 'was-dir/below'), { recursive: true });
  writeFileSync(join(rootfs, 'was-file'), '');
  symlinkSync('/etc', join(rootfs, 'was-link'));
  tarOf(diff(), [
    { name: 'was-dir', text: 'file now' },
    { name: 'was-file', type: 'dir' },
    { name: 'was-link', type: 'dir' },
    { name: 'was-link/inside', text: 'inside' },
  ]);

  await apply();

  expect(readFileSync(join(rootfs, 'was-dir'), 'utf8')).toBe('file now');
  expect(lstatSync(join(rootfs, 'was-file')).isDirectory()).toBe(true);
  expect(lstatSync(join(rootfs, 'was-link')).isDirectory()).toBe(true);
  expect(existsSync('/etc/inside')).toBe(false);
});

test('a name that is no UTF-8 is deleted by its bytes', async () => {
  const name = Buffer.concat([Buffer.from(`${rootfs}/l`), Buffer.from([0xe9])]);
  writeFileSync(name, '');
  writeFileSync(
    join(checkpoint, 'fs/deleted.files'),
    JSON.stringify([{ base64: Buffer.from([0x6c, 0xe9]).toString('base64') }]),
  );

  await apply();

  expect(readdirSync(rootfs)).toEqual([]);
});

const outside = (): string => join(dir, 'outside');
test.each<[string, Member[]]>([
  ['a name with ..', [{ name: '../outside/x', text: 'x' }]],
  ['an absolute name', [{ name: '/outside/x', text: 'x' }]],
  ['a name through a link of the image', [{ name: 'link/x', text: 'x' }]],
  [
    'a name through a link of the archive',
    [
      { name: 'l2', type: 'sym', link: '../outside' },
      { name: 'l2/x', text: 'x' },
    ],
  ],
  ['a hard link to what lies behind a link', [{ name: 'stolen', type: 'hard', link: 'link/secret' }]],
  ['a hard link with ..', [{ name: 'stolen', type: 'hard', link: '../outside/secret' }]],
  ['a header in what tar takes for a directory', [{ name: 'a/', text: hidden() }]],
  ['a header behind a link with a content', [{ name: 'a', type: 'sym', link: 'b', text: hidden() }]],
  [
    'a header in the file behind a sparse one that names more than it has',
    [sparse, { name: 's', text: '1\n0\n1024\n'.padEnd(512, '\0').padEnd(1024, 'd') }, { name: 'b', text: hidden() }],
  ],
  [
    'two names for one file',
    [
      { name: 'p', type: 'pax', text: '8 path=a\n' },
      { name: 'p', type: 'pax', text: '8 path=b\n' },
    ],
  ],
])('%s is refused before anything is unpacked', async (_title, members) => {
  mkdirSync(outside());
  writeFileSync(join(outside(), 'secret'), 'secret');
  symlinkSync('../outside', join(rootfs, 'link'));
  tarOf(diff(), [{ name: 'first', text: 'first' }, ...members]);

  await expect(apply()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });

  expect(readdirSync(rootfs)).toEqual(['link']);
  expect(readdirSync(outside())).toEqual(['secret']);
});

test.each([['["../outside"]'], ['["/etc"]'], ['["link/secret"]'], ['{"a":1}'], ['[3]'], ['[""]'], ['nonsense']])(
  'the deletion list %s is refused',
  async (text) => {
    mkdirSync(outside());
    writeFileSync(join(outside(), 'secret'), 'secret');
    symlinkSync('../outside', join(rootfs, 'link'));
    writeFileSync(join(checkpoint, 'fs/deleted.files'), text);

    await expect(apply()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(existsSync(join(outside(), 'secret'))).toBe(true);
  },
);

test('a checkpoint without a layer changes nothing', async () => {
  writeFileSync(join(rootfs, 'a'), 'a');

  await apply();

  expect(readdirSync(rootfs)).toEqual(['a']);
});

test('an OCI layer is split into its members and the names that it deletes', async () => {
  const layer = join(dir, 'layer.tar');
  tarOf(layer, [
    { name: 'opt', type: 'dir' },
    { name: 'opt/d', type: 'dir' },
    { name: 'opt/d/.wh..wh..opq' },
    { name: 'opt/d/new', text: 'n'.repeat(2000) },
    { name: 'etc/.wh.gone' },
    { name: '.wh.top' },
  ]);
  const op: Op = {
    signal: new AbortController().signal,
    progress: () => undefined,
    log: { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined },
  };

  const { bytes, deleted } = await splitLayer(layer, diff(), op);

  expect(deleted).toEqual(['opt/d', 'etc/gone', 'top']);
  expect(bytes).toBe(statSync(diff()).size);
  await apply();
  expect(readFileSync(join(rootfs, 'opt/d/new'), 'utf8')).toBe('n'.repeat(2000));
  expect(readdirSync(rootfs)).toEqual(['opt']);
});
