import { expect, it } from 'vitest';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { run } from './program.ts';

const FLAGS =
  '--id nightly --after stop --durability local --tcp close --freeze-budget 1s --hold-budget 2m --label a=b';
const FIELDS = {
  node: 'node-a',
  checkpointId: 'nightly',
  after: 'stop',
  durability: 'local',
  tcp: 'close',
  freezeBudgetMs: 1000,
  holdBudgetMs: 120_000,
  labels: { a: 'b' },
};

it.each<[string, string, object]>([
  ['container', 'checkpoint redis', { container: { id: 'redis' } }],
  ['process', 'process checkpoint 4711 --start-time 12', { process: { pid: 4711, startTime: 12 } }],
])('a %s is captured by the same options, and ends with the same exit codes', async (_what, command, target) => {
  const fake = createFakeCli();
  const help = createFakeCli();

  expect(await run(`${command} --json ${FLAGS}`.split(' '), fake.cli)).toBe(0);
  await run(`${command} --help`.split(' '), help.cli);

  expect(fake.calls[0]).toEqual(['checkpoint', { ...FIELDS, ...target }, {}]);
  for (const line of ['7  Incompatible', '24  HookFailed', '--hold-budget <duration>']) {
    expect(help.stdout()).toContain(line);
  }
});
