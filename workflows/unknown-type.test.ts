import { expect, it } from 'vitest';
import * as workflows from './index.ts';
import { OPERATION_TYPES } from './unknown-type.ts';

it('the types that are offered are those that exist, without the lock that nobody starts', () => {
  const types = Object.keys(workflows).filter((name) => !['default', 'containerLock'].includes(name));

  expect(types.toSorted()).toEqual([...OPERATION_TYPES]);
});
