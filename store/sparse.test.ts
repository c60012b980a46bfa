/* Files with holes: a terabyte of which a little is written. */
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OWN_FILES, METADATA_FILE } from '../core/checkpoint/file-names.ts';
import { encodeManifest } from '../core/checkpoint/manifest.ts';
import { noise, sampleMetadata, testOp, writeFiles } from '../test/harness/checkpoint-dir.ts';
import { openLocalBackend } from './backend/local.ts';
import { describeCheckpoint } from './describe.ts';
import type { DataExtents } from './digest-file.ts';
import { fetchCheckpoint } from './fetch.ts';
import { publishManifest } from './publish.ts';
import { uploadCheckpoint } from './upload.ts';

const TIB = 2 ** 40;
let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-sparse-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe('a file with holes', () => {
  it('has the same manifest, whether its holes are known or read', async () => {
    const dir = join(root, 'small');
    await writeFiles(dir, { 'fs/a': noise(100_000, 'a'), 'fs/b': '' });
    const file = await open(join(dir, 'fs/a'), 'r+');
    await file.truncate(1_000_001);
    await file.write(noise(70_000, 'b'), 0, 70_000, 500_000);
    await file.close();
    const known: DataExtents = () => [
      { offset: 0, bytes: 100_000 },
      { offset: 500_000, bytes: 3000 },
      { offset: 503_000, bytes: 67_000 },
    ];

    const read = await describeCheckpoint(dir, testOp());
    const told = await describeCheckpoint(dir, testOp(), { dataExtents: known });

    expect(told).toEqual(read);
    expect(await describeCheckpoint(dir, testOp(), { dataExtents: () => undefined })).toEqual(read);
  });

  it('of a terabyte is described, stored and fetched in seconds', { timeout: 60_000 }, async () => {
    const dir = join(root, 'source');
    const written = noise(300_000, 'written');
    await writeFiles(dir, { 'fs/disk': '', 'criu/core-1.img': noise(700, 'core') });
    const file = await open(join(dir, 'fs/disk'), 'r+');
    await file.truncate(TIB);
    await file.write(written, 0, written.length, TIB / 2);
    await file.close();
    const dataExtents: DataExtents = () => [{ offset: TIB / 2, bytes: 304_000 }];
    const op = testOp();

    const manifest = await describeCheckpoint(dir, op, { dataExtents });
    await writeFiles(dir, {
      [OWN_FILES.manifest]: encodeManifest(manifest),
      [METADATA_FILE]: JSON.stringify(sampleMetadata('ck-1', manifest)),
    });
    const backend = await openLocalBackend(join(root, 'store'));
    const { sentBytes } = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op });
    const destDir = join(root, 'fetched');
    await fetchCheckpoint({ checkpointId: 'ck-1', backend, destDir, op });

    expect(sentBytes).toBeLessThan(310_000);
    expect(encodeManifest(manifest).length).toBeLessThan(2000);
    const fetched = join(destDir, 'fs/disk');
    const info = await stat(fetched);
    expect([info.size, info.blocks * 512 < 2 ** 20]).toEqual([TIB, true]);
    const handle = await open(fetched);
    const { buffer } = await handle.read(Buffer.alloc(written.length), 0, written.length, TIB / 2);
    await handle.close();
    expect(buffer.equals(written)).toBe(true);
    expect((await readFile(join(destDir, 'criu/core-1.img'))).length).toBe(700);
  });
});
