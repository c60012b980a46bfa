import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { isOutsideContent } from '../core/checkpoint/manifest.ts';
import { commitCheckpoint, removeUncommitted } from './commit.ts';
import { draftPath, type MetadataDraft } from './draft.ts';

let root: string;
let dir: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kybernate-commit-'));
  dir = join(root, 'checkpoint-a');
  mkdirSync(join(dir, 'criu'), { recursive: true });
  writeFileSync(join(dir, 'criu', 'pages-1.img'), 'pages');
  writeFileSync(draftPath(dir), '{}');
});
afterEach(() => rmSync(root, { recursive: true }));

test('an uncommitted capture and its draft are removed', async () => {
  expect(await removeUncommitted(dir)).toBe(true);
  expect(await removeUncommitted(dir)).toBe(true);

  expect(readdirSync(root)).toEqual([]);
});

test('a committed checkpoint stays', async () => {
  writeFileSync(join(dir, METADATA_FILE), '{}');

  expect(await removeUncommitted(dir)).toBe(false);

  expect(existsSync(join(dir, 'criu', 'pages-1.img'))).toBe(true);
});

test('a commit that was faster than the removal is brought back whole, also after a crash between the two', async () => {
  writeFileSync(join(dir, METADATA_FILE), '{}');
  renameSync(dir, join(root, '.discard-checkpoint-a'));

  expect(await removeUncommitted(dir)).toBe(false);

  expect(readdirSync(dir).sort()).toEqual(['criu', METADATA_FILE]);
  expect(existsSync(join(root, '.discard-checkpoint-a'))).toBe(false);
});

test('what a commit leaves that fails at its last step is no content for the next one', async () => {
  const draft = { bootId: 'b', bytes: { image: 5, rootfs: 0 } } as unknown as MetadataDraft;
  const facts = { labels: {}, merkleRoot: '', totalBytes: 5, uploadPending: true };
  const silent = (): void => undefined;
  const log = { debug: silent, info: silent, warn: silent, error: silent };
  const op = { signal: new AbortController().signal, progress: silent, log };
  // In the way of the last rename, as a full disk is.
  const sign = async (): Promise<void> =>
    mkdir(join(dir, METADATA_FILE, 'in-the-way'), { recursive: true }).then(silent);

  await expect(commitCheckpoint(dir, draft, { ...facts, sign }, op)).rejects.toThrow(/metadata\.json/);
  rmSync(join(dir, METADATA_FILE), { recursive: true });

  expect(readdirSync(dir)).toHaveLength(3);
  expect(readdirSync(dir).filter((name) => !isOutsideContent(name))).toEqual(['criu']);
  await commitCheckpoint(dir, draft, facts, op);
  expect(readdirSync(dir).sort()).toEqual(['criu', METADATA_FILE, OWN_FILES.uploadPending]);
});

test('a commit that comes during the removal fails', async () => {
  for (let file = 0; file < 500; file += 1) {
    writeFileSync(join(dir, 'criu', `core-${file}.img`), '');
  }
  writeFileSync(join(dir, '.tmp'), '{}');
  const removal = removeUncommitted(dir);
  while (existsSync(join(dir, 'criu', 'pages-1.img'))) {
    await new Promise((resolve) => setImmediate(resolve));
  }

  expect(() => renameSync(join(dir, '.tmp'), join(dir, METADATA_FILE))).toThrow(/ENOENT/);
  expect(await removal).toBe(true);
});
