import { expect, test } from 'vitest';
import { pidsIn } from './pid-namespace.ts';

test('the pids of a namespace are found by its path; one that is not there has none', () => {
  expect(pidsIn('/proc/self/ns/pid')?.has(process.pid)).toBe(true);
  expect(pidsIn('/proc/0/ns/pid')).toBeUndefined();
});
