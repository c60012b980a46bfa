import { expect, test } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { asDiskFull } from './disk-full.ts';

test.each([
  ['an errno', Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })],
  ['the words of CRIU', new KybernateError('DumpFailed', 'Error: page-xfer: write: No space left on device')],
  ['the words of a cause', new Error('rpc failed', { cause: new Error('write pages-1.img: no space left on device') })],
])('%s becomes DiskFull that names the directory', (_what, error) => {
  expect(asDiskFull(error, '/state/checkpoint-a')).toMatchObject({
    type: 'DiskFull',
    message: expect.stringContaining('/state/checkpoint-a'),
    cause: error,
  });
});

test('any other error stays as it is', () => {
  const error = new KybernateError('DumpFailed', 'CRIU said no');

  expect(asDiskFull(error, '/state')).toBe(error);
});
