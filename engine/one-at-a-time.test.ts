import { expect, test } from 'vitest';
import { oneAtATime } from './one-at-a-time.ts';

test('acts run in the order in which they came, each after the end of the one before, also of one that fails', async () => {
  const log: string[] = [];
  async function act(name: string): Promise<string> {
    log.push(`${name} begins`);
    await Promise.resolve();
    log.push(`${name} ends`);
    if (name === 'first') {
      throw new Error('no room');
    }
    return name;
  }

  const results = await Promise.allSettled(['first', 'second'].map((name) => oneAtATime(() => act(name))));

  expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled']);
  expect(log).toEqual(['first begins', 'first ends', 'second begins', 'second ends']);
});
