import { describe, expect, it } from 'vitest';
import { caution, problem } from '../core/preflight.ts';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { run } from './program.ts';

describe('preflight', () => {
  const FITS = {
    node: 'node-a',
    container: { namespace: 'default', id: 'redis' },
    checkpointId: 'nightly',
    from: 'local',
    fits: true,
    findings: [],
    checkMs: 12,
  };
  const preflight = (result: object, args: string[]): [ReturnType<typeof createFakeCli>, Promise<number>] => {
    const fake = createFakeCli({ operation: { result: async () => result } });
    return [fake, run(['preflight', ...args], fake.cli)];
  };

  it('ends with 0 where the checkpoint fits', async () => {
    const [fake, exit] = preflight(FITS, ['nightly', '--tcp', 'keep', '--name', 'redis-2']);

    expect(await exit).toBe(0);
    expect(fake.calls[0]).toEqual([
      'preflight',
      { node: 'node-a', checkpointId: 'nightly', tcp: 'keep', as: { id: 'redis-2' } },
      {},
    ]);
    expect(fake.stdout()).toBe('nightly can be restored on node-a (looked for 12 ms, touched nothing)\n');
  });

  it('lists every reason and ends with the code of Incompatible where it does not', async () => {
    const findings = [
      problem('kernel', 'the kernel 6.1 is older than 6.18', { recorded: '6.18', here: '6.1' }),
      caution('cpu-vendor', 'another vendor', { recorded: 'GenuineIntel', here: 'AuthenticAMD' }),
    ];
    const [fake, exit] = preflight({ ...FITS, fits: false, findings }, ['nightly']);

    expect(await exit).toBe(0);
    expect(fake.exitCode()).toBe(7);
    expect(fake.stdout()).toBe(`nightly cannot be restored on node-a: 1 reason (looked for 12 ms, touched nothing)

CHECK       SEVERITY  RECORDED      HERE
kernel      error     6.18          6.1
cpu-vendor  warning   GenuineIntel  AuthenticAMD

kernel: the kernel 6.1 is older than 6.18
  choose a node with this kernel or a newer one
cpu-vendor: another vendor
  test the workload on this pair of processors, or choose a node of the same vendor
`);
  });

  it('asks whether the liveness probe of a container allows a checkpoint with these budgets', async () => {
    const probe = '{"periodSeconds":2,"timeoutSeconds":1,"failureThreshold":3,"httpGet":{"port":80}}';
    const budgets = ['--freeze-budget', '8s', '--hold-budget', '1m'];
    const [fake, exit] = preflight(FITS, ['--container', 'redis', '--liveness-probe', probe, ...budgets]);

    expect(await exit).toBe(0);
    expect(fake.calls[0]?.[1]).toEqual({
      node: 'node-a',
      container: { id: 'redis' },
      livenessProbe: { periodSeconds: 2, timeoutSeconds: 1, failureThreshold: 3 },
      freezeBudgetMs: 8000,
      holdBudgetMs: 60_000,
    });
  });

  it('asks whether a container can be checkpointed', async () => {
    const [fake, exit] = preflight({ ...FITS, checkpointId: undefined }, ['--container', 'redis', '--namespace', 'n']);

    expect(await exit).toBe(0);
    expect(fake.calls[0]).toEqual(['preflight', { node: 'node-a', container: { id: 'redis', namespace: 'n' } }, {}]);
  });
});
