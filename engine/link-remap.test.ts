import { linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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

function planOf(linkRemap: boolean): Pick<OperationPlan, 'facts' | 'analysis'> {
  return { facts: { upperDir: dir }, analysis: { linkRemap } } as unknown as OperationPlan;
}

test('the links of a dump go, whatever else is in the container stays', () => {
  expect(removeLinkRemaps(planOf(true), Date.now() - 60_000)).toEqual([join(dir, 'sub', 'link_remap.12')]);

  expect(readdirSync(dir).sort()).toEqual(['file', 'link_remap.txt', 'sub']);
  expect(readdirSync(join(dir, 'sub'))).toEqual([]);
});

test.each([
  ['of before the operation', true, Date.now() + 60_000],
  ['where the dump makes none', false, 0],
] as const)('links %s stay', (_, linkRemap, sinceMs) => {
  expect(removeLinkRemaps(planOf(linkRemap), sinceMs)).toEqual([]);
});
