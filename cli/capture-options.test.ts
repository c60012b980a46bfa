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

it.each<[string, string, object]>([
  [
    'of which only the times count',
    '{"failureThreshold":3,"periodSeconds":2,"successThreshold":1,"tcpSocket":{"port":6379},"timeoutSeconds":1}',
    { livenessProbe: { periodSeconds: 2, timeoutSeconds: 1, failureThreshold: 3 } },
  ],
  ['that a pod does not have', '', {}],
])('a container is captured with a probe as kubectl prints it, %s', async (_, probe, fields) => {
  const fake = createFakeCli();

  expect(await run(['checkpoint', 'redis', '--json', '--liveness-probe', probe], fake.cli)).toBe(0);

  expect(fake.calls[0]).toEqual(['checkpoint', { node: 'node-a', container: { id: 'redis' }, ...fields }, {}]);
});

it('a container is captured with the volumes of its pod that are named, in this order', async () => {
  const fake = createFakeCli();

  expect(
    await run('checkpoint redis --json --capture-volume cache --capture-volume /dev/shm'.split(' '), fake.cli),
  ).toBe(0);

  expect(fake.calls[0]?.[1]).toMatchObject({ captureVolumes: ['cache', '/dev/shm'] });
});

it.each(['../etc', 'a/b', '- --capture-volume cache', ''])('no volume is called %j', async (name) => {
  const fake = createFakeCli();

  expect(await run(['checkpoint', 'redis', '--capture-volume', ...name.split(' ')], fake.cli)).toBe(2);

  expect(fake.stderr()).toContain('--capture-volume');
  expect(fake.calls).toEqual([]);
});

it.each(['10s', '[1]', '{"periodSeconds":0}'])('a container is not captured with a probe that is %s', async (probe) => {
  const fake = createFakeCli();

  expect(await run(['checkpoint', 'redis', '--liveness-probe', probe], fake.cli)).toBe(2);

  expect(fake.stderr()).toContain('--liveness-probe');
  expect(fake.calls).toEqual([]);
});
