import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { localCatalog } from './local-catalog.ts';
import { removeLocal } from './remove-local.ts';

let checkpointsDir: string;
beforeEach(async () => {
  checkpointsDir = await mkdtemp(join(tmpdir(), 'kybernate-rm-'));
  await mkdir(join(checkpointsDir, 'checkpoint-one'));
  await writeFile(join(checkpointsDir, 'checkpoint-one/metadata.json'), '{}');
});
afterEach(async () => {
  await rm(checkpointsDir, { recursive: true });
});

describe('removeLocal', () => {
  it('puts the checkpoint back when a restore takes it between the two looks', async () => {
    const looks = [[], ['operation-1']];

    const removing = removeLocal({
      catalog: localCatalog(checkpointsDir),
      checkpointId: 'one',
      users: () => looks.shift() ?? [],
    });

    await expect(removing).rejects.toMatchObject({ type: 'CheckpointInUse' });
    expect(await readdir(join(checkpointsDir, 'checkpoint-one'))).toEqual(['metadata.json']);
    expect(await readdir(checkpointsDir)).toEqual(['checkpoint-one']);
  });

  it('throws CheckpointNotFound when there is none', async () => {
    const removing = removeLocal({
      catalog: localCatalog(checkpointsDir),
      checkpointId: 'two',
      users: () => [],
    });

    await expect(removing).rejects.toMatchObject({ type: 'CheckpointNotFound' });
  });
});
