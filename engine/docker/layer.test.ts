import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { bringBackLayer, dropLayer, holderOf, holderOfRoot, letLayerGo, setLayerAside } from './layer.ts';

let dir: string;
let upper: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'layer-'));
  upper = join(dir, 'diff');
  mkdirSync(upper, { mode: 0o711 });
  writeFileSync(join(upper, 'file'), 'old');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('a layer is set aside once, with an empty one of the same mode in its place, and brought back as it was', async () => {
  await setLayerAside(upper, 'op');
  writeFileSync(join(upper, 'file'), 'new');
  await setLayerAside(upper, 'op');

  expect(readFileSync(join(upper, 'file'), 'utf8')).toBe('new');
  expect(statSync(upper).mode & 0o7777).toBe(0o711);
  await bringBackLayer(upper, 'op');
  await bringBackLayer(upper, 'op');
  expect(readFileSync(join(upper, 'file'), 'utf8')).toBe('old');
  expect(readdirSync(dir)).toEqual(['diff']);
});

it('a crash between the two renames is finished, or undone, by the next call', async () => {
  await setLayerAside(upper, 'op');
  rmSync(upper, { recursive: true });

  await setLayerAside(upper, 'op');
  expect(existsSync(upper)).toBe(true);
  rmSync(upper, { recursive: true });
  await bringBackLayer(upper, 'op');

  expect(readFileSync(join(upper, 'file'), 'utf8')).toBe('old');
});

it('a crash in the making of the empty one leaves none with another mode', async () => {
  await setLayerAside(upper, 'op');
  rmSync(upper, { recursive: true });
  mkdirSync(`${upper}.kybernate-op.new`, { mode: 0o700 });

  await setLayerAside(upper, 'op');

  expect(statSync(upper).mode & 0o7777).toBe(0o711);
  expect(readdirSync(dir)).toEqual(['diff', 'diff.kybernate-op', 'kybernate-restoring']);
});

it('what was kept goes when the restore has succeeded', async () => {
  await setLayerAside(upper, 'op');

  dropLayer(upper, 'op');

  await bringBackLayer(upper, 'op');
  expect(readdirSync(upper)).toEqual([]);
});

it('a layer is held by its restore until it is let go, or is as it was', async () => {
  await setLayerAside(upper, 'op');
  expect([holderOf(upper), holderOfRoot(join(dir, 'merged')), holderOfRoot(join(dir, 'rootfs'))]).toEqual([
    'op',
    'op',
    undefined,
  ]);

  await bringBackLayer(upper, 'op');
  expect(holderOf(upper)).toBeUndefined();

  await setLayerAside(upper, 'op');
  letLayerGo(upper);
  expect(holderOfRoot(join(dir, 'merged'))).toBeUndefined();
  await bringBackLayer(upper, 'op');
  expect([readdirSync(dir), readFileSync(join(upper, 'file'), 'utf8')]).toEqual([['diff'], 'old']);
});
