import { spawn } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { removeLinkRemaps } from './link-remap.ts';
import type { OperationPlan } from './operation.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-links-'));
  mkdirSync(join(dir, 'sub'));
  for (const name of ['file', 'link_remap.txt']) {
    writeFileSync(join(dir, name), 'x');
  }
  linkSync(join(dir, 'file'), join(dir, 'sub', 'link_remap.12'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function planOf(linkRemap: boolean, upperDir = dir): Pick<OperationPlan, 'facts' | 'analysis'> {
  return { facts: { upperDir }, analysis: { linkRemap } } as unknown as OperationPlan;
}

test('the links of a dump go, whatever else is in the container stays', async () => {
  expect(await removeLinkRemaps(planOf(true), Date.now() - 60_000)).toMatchObject({
    removed: [join(dir, 'sub', 'link_remap.12')],
    isWhole: true,
  });

  expect(readdirSync(dir).sort()).toEqual(['file', 'link_remap.txt', 'sub']);
  expect(readdirSync(join(dir, 'sub'))).toEqual([]);
});

test.each([
  ['of before the operation', true, Date.now() + 60_000],
  ['where the dump makes none', false, 0],
] as const)('links %s stay', async (_, linkRemap, sinceMs) => {
  expect((await removeLinkRemaps(planOf(linkRemap), sinceMs)).removed).toEqual([]);
});

test('a directory that has become a link by the time it is opened is not followed', async () => {
  const swapped = join(dir, 'swapped');
  symlinkSync(join(dir, 'sub'), swapped);

  expect((await removeLinkRemaps(planOf(true, swapped), 0)).removed).toEqual([]);

  expect(readdirSync(join(dir, 'sub'))).toEqual(['link_remap.12']);
});

test('directories that are swapped for links all the time lead nowhere', async () => {
  const host = join(dir, 'host');
  const upper = join(dir, 'upper');
  mkdirSync(join(upper, 'a'), { recursive: true });
  mkdirSync(host);
  linkSync(join(dir, 'file'), join(host, 'link_remap.1'));
  symlinkSync(host, join(dir, 'link'));
  const swap = `for (;;) { for (const [from, to] of [['a', 'b'], ['link', 'a'], ['a', 'link'], ['b', 'a']]) {
    fs.renameSync(path.join(from === 'link' ? dir : upper, from), path.join(to === 'link' ? dir : upper, to)); } }`;
  const source = `const fs = require('node:fs'), path = require('node:path'), [, dir, upper] = process.argv; ${swap}`;
  const swapper = spawn(process.execPath, ['-e', source, dir, upper], { stdio: 'ignore' });
  try {
    for (const until = Date.now() + 500; Date.now() < until;) {
      expect((await removeLinkRemaps(planOf(true, upper), 0)).removed).toEqual([]);
    }
  } finally {
    const gone = new Promise((resolve) => swapper.once('exit', resolve));
    swapper.kill('SIGKILL');
    await gone;
  }

  expect(readdirSync(host)).toEqual(['link_remap.1']);
});

test('the walk ends when its time is over, and says so', async () => {
  expect(await removeLinkRemaps(planOf(true), 0, 0)).toMatchObject({ removed: [], isWhole: false });
});
