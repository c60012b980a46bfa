import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFakeCli, type FakeCli } from '../test/harness/fake-cli.ts';
import { run } from './program.ts';

let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-root-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

function withoutRoot(): FakeCli {
  const env = {
    KYBERNATE_RUN_DIR: join(root, 'run'),
    KYBERNATE_STATE_DIR: join(root, 'state'),
    KYBERNATE_DEV_DIR: join(root, 'dev'),
  };
  return createFakeCli({ env, isRoot: false });
}

describe('without root', () => {
  it.each(['up', 'down', 'worker node', 'rescue --apply'])('%s refuses before it does anything', async (line) => {
    const fake = withoutRoot();

    expect(await run(line.split(' '), fake.cli)).toBe(2);

    expect(fake.stdout()).toBe('');
    expect(fake.stderr()).toBe(
      `kybernate: InvalidInput: \`kybernate ${line}\` needs root; nothing was done\n  remedy:   run it as root (sudo)\n`,
    );
    expect(await readdir(root)).toEqual([]);
  });

  it('rescue says once that it does not see everything', async () => {
    const fake = withoutRoot();

    expect(await run(['rescue'], fake.cli)).toBe(0);

    expect(fake.stdout().split('not looked at: what only root sees: run it as root (sudo)')).toHaveLength(2);
    expect(fake.exitCode()).not.toBeUndefined();
  });
});
