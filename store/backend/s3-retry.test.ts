import { describe, expect, it } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { retrying } from './s3-retry.ts';

function answer(name: string, httpStatusCode: number): Error {
  return Object.assign(new Error('said so'), { name, $metadata: { httpStatusCode } });
}

describe('retrying', () => {
  it.each([
    ['a server that is busy', answer('SlowDown', 503)],
    ['too many requests', answer('TooManyRequests', 429)],
    ['a connection that was cut', new Error('ECONNRESET')],
    ['a body that was cut off', answer('SyntaxError', 200)],
  ])('asks again after %s', async (_, error) => {
    let calls = 0;

    const result = await retrying(async () => {
      calls += 1;
      if (calls < 3) {
        throw error;
      }
      return 'done';
    }, undefined);

    expect([result, calls]).toEqual(['done', 3]);
  });

  it.each([
    ['access denied', answer('AccessDenied', 403)],
    ['a request that makes no sense', answer('MalformedXML', 400)],
    ['a refusal that we found ourselves', new KybernateError('StorageDenied', 'no bucket')],
  ])('asks once after %s', async (_, error) => {
    let calls = 0;

    const outcome = retrying(async () => {
      calls += 1;
      throw error;
    }, undefined);

    await expect(outcome).rejects.toBe(error);
    expect(calls).toBe(1);
  });

  it('throws the last error when all attempts fail', async () => {
    let calls = 0;

    const outcome = retrying(async () => {
      calls += 1;
      throw answer(`SlowDown${calls}`, 503);
    }, undefined);

    await expect(outcome).rejects.toMatchObject({ name: 'SlowDown6' });
    // Five pauses of random length may come close to the usual limit.
  }, 30_000);

  it('ends in a pause when it is cancelled', async () => {
    const stop = new AbortController();
    const outcome = retrying(async () => {
      setTimeout(() => stop.abort(new Error('stopped')), 1);
      throw answer('SlowDown', 503);
    }, stop.signal);

    await expect(outcome).rejects.toThrow('stopped');
  });
});
