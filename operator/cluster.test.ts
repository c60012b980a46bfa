import { ApiException, type KubeConfig } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { clusterOf, type Cluster } from './cluster.ts';

/** An API server that answers everything with this. */
function refusing(code: number, body: unknown): Cluster {
  const refuse = (): Promise<never> => Promise.reject(new ApiException(code, `HTTP ${code}`, body, {}));
  return clusterOf({ makeApiClient: () => ({ createNamespacedPod: refuse }) } as unknown as KubeConfig);
}

describe('a pod', () => {
  it.each([
    [
      422,
      JSON.stringify({ kind: 'Status', message: 'spec.containers[0].image: Required value' }),
      'InvalidInput',
      'Required value',
    ],
    [400, { kind: 'Status', message: 'strict decoding error' }, 'InvalidInput', 'strict decoding error'],
    [403, JSON.stringify({ message: 'exceeded quota: small' }), 'RestoreRefused', 'exceeded quota: small'],
    [422, 'no Status', 'InvalidInput', 'HTTP 422'],
    [422, 'null', 'InvalidInput', 'HTTP 422'],
  ])('that the API server answers with %i is refused for good, in its words', async (code, body, type, words) => {
    await expect(refusing(code, body).createPod('ml', {})).rejects.toMatchObject({
      type,
      message: expect.stringContaining(words) as string,
    });
  });

  it('of a name that is taken is none, and a server that is away is asked again', async () => {
    expect(await refusing(409, '{}').createPod('ml', {})).toBeUndefined();
    await expect(refusing(503, '{}').createPod('ml', {})).rejects.toBeInstanceOf(ApiException);
  });
});
