import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dataExtents } from './data-extents.ts';

const MiB = 2 ** 20;
let dir = '';
let file: FileHandle;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-extents-'));
  file = await open(join(dir, 'file'), 'w+');
});
afterEach(async () => {
  await file.close();
  await rm(dir, { recursive: true, force: true });
});

describe('dataExtents', () => {
  it('gives the written parts of a file of a terabyte', async () => {
    await file.truncate(2 ** 40);
    await file.write(Buffer.alloc(MiB, 1), 0, MiB, 5 * MiB);
    await file.write(Buffer.alloc(MiB, 2), 0, MiB, 2 ** 39);

    const extents = [...(dataExtents(file.fd, 2 ** 40) ?? [])];

    expect(extents).toEqual([
      { offset: 5 * MiB, bytes: MiB },
      { offset: 2 ** 39, bytes: MiB },
    ]);
  });

  it('gives nothing for a file that is all holes, and all of one without', async () => {
    await file.truncate(MiB);
    expect([...(dataExtents(file.fd, MiB) ?? [])]).toEqual([]);

    await file.write(Buffer.alloc(MiB, 1), 0, MiB, 0);
    expect([...(dataExtents(file.fd, MiB) ?? [])]).toEqual([{ offset: 0, bytes: MiB }]);
  });

  it('does not tell of what is no file', () => {
    expect(dataExtents(-1, MiB)).toBeUndefined();
  });
});
