import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { bringBackLayer, dropLayer, holderOf, holderOfRoot, isAside, letLayerGo, setLayerAside } from './layer.ts';
import { isFinishedInDocker } from './undo.ts';

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

it('an interrupted removal of what was kept is no layer that anybody brings back', async () => {
  await setLayerAside(upper, 'op');
  writeFileSync(join(upper, 'file'), 'restored');
  renameSync(`${upper}.kybernate-op`, `${upper}.kybernate-op.gone`);
  letLayerGo(upper);

  expect(isAside(upper, 'op')).toBe(false);
  await bringBackLayer(upper, 'op');
  expect(readFileSync(join(upper, 'file'), 'utf8')).toBe('restored');

  dropLayer(upper, 'op');
  expect(readdirSync(dir)).toEqual(['diff']);
});

it('a hold whose name alone outlived a power failure says nothing of a restore that has ended', async () => {
  await setLayerAside(upper, 'op');
  writeFileSync(join(dir, 'kybernate-restoring'), '');

  expect(isFinishedInDocker({ name: 'web', id: 'w', upperDir: upper })).toBe(false);
  await bringBackLayer(upper, 'op');
  expect(isFinishedInDocker({ name: 'web', id: 'w', upperDir: upper })).toBe(true);
});
