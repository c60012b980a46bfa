import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LABELS } from '../../core/oci/annotations.ts';
import type { NodeDeps } from '../node-deps.ts';
import { writeWish } from '../restore-wishes.ts';
import { setLayerAside } from './layer.ts';
import { removeFromDocker, settleInDocker } from './undo.ts';

const OPERATION = 'b'.repeat(32);
const ID = 'a'.repeat(64);

let dir: string;
let upperDir: string;
let calls: string[];
/** operation of its label */
let madeBy: string | undefined;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'docker-undo-'));
  upperDir = join(dir, 'diff');
  mkdirSync(upperDir);
  writeFileSync(join(upperDir, 'file'), 'before');
  calls = [];
  madeBy = undefined;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function deps(): NodeDeps {
  return {
    settings: { runDir: dir },
    docker: {
      container: () =>
        Promise.resolve({ Id: ID, Config: { Labels: madeBy === undefined ? null : { [LABELS.operation]: madeBy } } }),
      killContainer: (id: string) => Promise.resolve(calls.push(`kill ${id === ID}`)),
      removeContainer: (id: string) => Promise.resolve(calls.push(`remove ${id === ID}`)),
    },
  } as unknown as NodeDeps;
}

const source = { name: 'web', id: ID };
const file = (): string => readFileSync(join(upperDir, 'file'), 'utf8');

async function restoredInto(): Promise<void> {
  await setLayerAside(upperDir, OPERATION);
  writeFileSync(join(upperDir, 'file'), 'restored');
  const wish = { restoreFrom: 'ck', origin: 'annotation', onFailure: 'fail', tcp: 'close', unverified: false } as const;
  writeWish(dir, ID, wish);
}

describe('the undo of a restore into its source', () => {
  it.each([
    ['half-way', false],
    ['when its processes run', true],
  ])('%s ends what runs and brings back the files of before', async (_when, settled) => {
    await restoredInto();
    if (settled) {
      settleInDocker({ runDir: dir }, { ...source, upperDir });
    }

    await removeFromDocker(deps(), OPERATION, { ...source, upperDir, started: true }, false);

    expect(calls).toEqual(['kill true']);
    expect(file()).toBe('before');
    expect([readdirSync(dir).sort(), existsSync(join(dir, 'wishes', ID))]).toEqual([['diff', 'wishes'], false]);
  });

  it('before anything was touched leaves the container alone, which others may have started', async () => {
    await removeFromDocker(deps(), OPERATION, { ...source, upperDir }, false);

    expect(calls).toEqual([]);
    expect(file()).toBe('before');
  });

  it('after a reboot half-way brings back the files of before', async () => {
    await restoredInto();

    await removeFromDocker(deps(), OPERATION, { ...source, upperDir }, true);

    expect(file()).toBe('before');
    expect(readdirSync(dir).sort()).toEqual(['diff', 'wishes']);
  });

  it('after a reboot that ended restored processes keeps their files, and what runs since', async () => {
    await restoredInto();
    settleInDocker({ runDir: dir }, { ...source, upperDir });

    await removeFromDocker(deps(), OPERATION, { ...source, upperDir }, true);

    expect(calls).toEqual([]);
    expect(file()).toBe('restored');
    expect(readdirSync(dir).sort()).toEqual(['diff', 'wishes']);
  });
});

describe('the undo of a cold start of the source', () => {
  it('ends what the operation has started, and the files stay', async () => {
    await removeFromDocker(deps(), OPERATION, { ...source, started: true }, false);

    expect(calls).toEqual(['kill true']);
    expect(file()).toBe('before');
  });

  it('that has not begun, or of which a reboot left the note alone, ends nothing', async () => {
    await removeFromDocker(deps(), OPERATION, source, false);
    await removeFromDocker(deps(), OPERATION, source, true);

    expect(calls).toEqual([]);
  });
});

it('the undo removes a container that the operation made, and no other of its name', async () => {
  madeBy = OPERATION;
  await removeFromDocker(deps(), OPERATION, { name: 'web' }, false);
  madeBy = 'c'.repeat(32);
  await removeFromDocker(deps(), OPERATION, { name: 'web' }, false);

  expect(calls).toEqual(['remove true']);
});
