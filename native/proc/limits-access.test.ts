import { expect, test } from 'vitest';
import { limitsKeptBy, mayUseLimits } from './limits-access.ts';

const status = (ids: string, capEff = '0000000000000000'): string =>
  `Name:\tx\nUid:\t${ids}\nGid:\t${ids}\nCapEff:\t${capEff}\n`;
const ROOT = '0\t0\t0\t0';
const USER = '1000\t1000\t1000\t1000';
const ALL = '000001ffffffffff';
const ALL_BUT_RESOURCE = '000001fffeffffff';

test.each([
  ['root with the capability, a user', status(ROOT, ALL), status(USER), true, true],
  ['root without it, a user', status(ROOT, ALL_BUT_RESOURCE), status(USER), true, false],
  ['root without it, root', status(ROOT, ALL_BUT_RESOURCE), status(ROOT), true, true],
  ['root without it, a program that was root', status(ROOT, ALL_BUT_RESOURCE), status('0\t1000\t0\t1000'), true, false],
  ['root without it, a user in a namespace of its own', status(ROOT, ALL_BUT_RESOURCE), status(USER), false, true],
])('%s', (_, own, other, sameUserNamespace, expected) => {
  expect(mayUseLimits(own, other, sameUserNamespace)).toBe(expected);
});

test('nobody keeps a process from its own limits', () => {
  expect(limitsKeptBy(process.pid)).toBeUndefined();
});
