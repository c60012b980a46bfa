import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import type { NodeDeps } from './node-deps.ts';
import { checkDisk } from './plan.ts';

function depsWith(minFreeBytes: number): NodeDeps {
  return { settings: { runDir: '/nowhere', minFreeBytes } } as unknown as NodeDeps;
}

test('a checkpoint that would leave less than the floor of the disk is refused', async () => {
  const { bavail, bsize } = statfsSync(tmpdir());

  await expect(checkDisk(depsWith(bavail * bsize * 2), tmpdir(), 'a', 1)).rejects.toMatchObject({
    type: 'DiskFull',
    details: { minFreeBytes: bavail * bsize * 2 },
  });
  await expect(checkDisk(depsWith(0), tmpdir(), 'a', 1)).resolves.toBeUndefined();
});

test('what writes nothing needs no room', async () => {
  await expect(checkDisk(depsWith(Number.MAX_SAFE_INTEGER), tmpdir(), 'a', 0)).resolves.toBeUndefined();
});
