import { expect, test } from 'vitest';
import { idsIn } from './pid-namespace.ts';
import { numericEntries } from './read.ts';

test('the processes and threads of a namespace are found by its path; one that is not there has none', () => {
  const ids = idsIn('/proc/self/ns/pid');
  const threads = numericEntries('/proc/self/task');

  expect(threads.length).toBeGreaterThan(1);
  expect(ids?.get(process.pid)).toBe(process.pid);
  expect(ids?.get(threads.at(1) ?? 0)).toBe(process.pid);
  expect(idsIn('/proc/0/ns/pid')).toBeUndefined();
});
