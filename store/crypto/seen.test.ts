import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openSeen, type Sighting } from './seen.ts';

let dir = '';
let path = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-seen-'));
  path = join(dir, 'seen.jsonl');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

function made(day: number, checkpointId = 'nightly'): Sighting {
  return {
    checkpointId,
    createdAt: `2026-01-${String(day).padStart(2, '0')}T00:00:00.000Z`,
    merkleRoot: `root-${day}`,
  };
}

describe('openSeen', () => {
  it('finds an older one of the same id, also after a restart', async () => {
    await openSeen(path).record(made(2));

    const later = openSeen(path);

    await expect(later.check(made(1), 'the store')).rejects.toMatchObject({
      type: 'SignatureInvalid',
      message: expect.stringContaining('an older one was put back'),
    });
    await later.check(made(2), 'the store');
    await later.check(made(3), 'the store');
    await later.check(made(1, 'weekly'), 'the store');
  });

  it('keeps the newest when an older one is recorded after it', async () => {
    const seen = openSeen(path);

    await seen.record(made(2));
    await seen.record(made(1));

    await expect(seen.check(made(1), 'x')).rejects.toThrow();
  });

  it('knows nothing without a file, and makes none for a question', async () => {
    await openSeen(path).check(made(1), 'x');

    await expect(readFile(path)).rejects.toThrow(/ENOENT/);
  });

  it('reads past a line that was cut off', async () => {
    await openSeen(path).record(made(5));
    await appendFile(path, '{"checkpointId":"week');

    await expect(openSeen(path).check(made(4), 'x')).rejects.toThrow();
  });

  it('stays small when one id is used again and again, many at once', async () => {
    const seen = openSeen(path);
    const at = (ms: number): Sighting => ({ ...made(1), createdAt: new Date(ms).toISOString(), merkleRoot: `r${ms}` });

    await Promise.all(Array.from({ length: 3000 }, (_, index) => seen.record(at(index * 1000))));

    const lines = (await readFile(path, 'utf8')).trim().split('\n');
    expect(lines.length).toBeLessThan(1100);
    expect(lines.at(-1)).toContain('r2999000');
    await expect(openSeen(path).check(at(0), 'x')).rejects.toThrow();
  });
});
