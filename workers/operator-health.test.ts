import { afterEach, expect, it } from 'vitest';
import { newOperatorState } from '../operator/state.ts';
import { startHealth, type Health } from './operator-health.ts';

const opened: Health[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((health) => health.close()));
});

async function start(state = newOperatorState()): Promise<(path: string) => Promise<string>> {
  const health = await startHealth('127.0.0.1:0', state);
  opened.push(health);
  return async (path) => {
    const answer = await fetch(`http://${health.address}${path}`);
    return `${answer.status} ${(await answer.text()).trim()}`;
  };
}

it('an operator that the API server does not answer lives, and is not ready', async () => {
  const ask = await start();

  expect(await ask('/healthz')).toBe('200 it waits');
  expect(await ask('/readyz')).toBe('503 the API server does not answer about the lease');
  expect(await ask('/')).toMatch(/^404 /);
});

it('one that waits for its turn is ready, and so is one that leads and watches both kinds', async () => {
  const state = newOperatorState();
  const ask = await start(state);
  state.leaseSeenMs = performance.now();

  expect(await ask('/readyz')).toBe('200 it waits');
  state.leads = true;
  expect(await ask('/readyz')).toBe('503 it leads, and does not watch Checkpoint, Restore');
  state.watched.add('Checkpoint').add('Restore');
  expect(await ask('/readyz')).toBe('200 it leads');
});

it('an address that is taken is named by its variable', async () => {
  const health = await startHealth('127.0.0.1:0', newOperatorState());
  opened.push(health);

  await expect(startHealth(health.address, newOperatorState())).rejects.toMatchObject({
    type: 'InvalidInput',
    message: expect.stringContaining('KYBERNATE_HEALTH_ADDRESS') as string,
  });
});

it('without an address nobody is answered', async () => {
  expect(await startHealth(undefined, newOperatorState())).toMatchObject({ address: undefined });
});
