/* Restores of containers of pods, as the wrapper decides. */
import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { hasStarted, openPodStarts } from '../../engine/pod-starts.ts';
import { OPERATION, WrapperBundle } from '../../test/harness/wrapper-bundle.ts';
import { createOrRestore } from './create.ts';
import type { WrapperDeps } from './job.ts';

let made: WrapperBundle;
beforeEach(() => {
  made = new WrapperBundle();
});
afterEach(() => made.remove());

describe('a container of a pod', () => {
  const POD = {
    'io.kubernetes.cri.container-type': 'container',
    'io.kubernetes.cri.container-name': 'app',
    'io.kubernetes.cri.sandbox-namespace': 'shop',
    'io.kubernetes.cri.sandbox-name': 'web-0',
    'io.kubernetes.cri.sandbox-uid': '11111111-2222',
  };
  const note = (): string => join(made.dir, 'run/pod-starts/11111111-2222.app');
  const started = (): boolean =>
    hasStarted(join(made.dir, 'run'), {
      pod: { namespace: 'shop', name: 'web-0', uid: '11111111-2222', container: 'app', named: false },
    });
  const pending = new KybernateError('RestorePending', 'checkpoint ck-1 is on its way: 43 %');
  const answering = (...answers: Array<Error | undefined>): Partial<WrapperDeps> => {
    const { agent } = made.deps();
    return {
      agent: {
        ...agent,
        prepareRestore: async (call) => {
          const answer = await agent.prepareRestore(call);
          const error = answers.shift();
          return error === undefined ? answer : Promise.reject(error);
        },
      },
    };
  };

  beforeEach(() => {
    mkdirSync(join(made.dir, 'run'), { recursive: true });
    openPodStarts({ runDir: join(made.dir, 'run'), stateDir: join(made.dir, 'state') });
  });

  it('tells the agent its pod and how long it can wait, and leaves to the start to note that it was the first', async () => {
    made.asks(POD);

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'restored' });

    expect(made.prepared).toMatchObject([
      { pod: { namespace: 'shop', name: 'web-0', uid: '11111111-2222', container: 'app', named: false } },
    ]);
    expect(made.prepared[0]?.waitMs).toBeGreaterThan(80_000);
    expect(made.prepared[0]?.waitMs).toBeLessThanOrEqual(90_000);
    expect(readFileSync(made.marker(), 'utf8').split('\n')).toEqual([OPERATION, note(), '']);
    expect(started()).toBe(false);
    expect(JSON.parse(readFileSync(`${note()}.outcome`, 'utf8'))).toMatchObject({
      how: 'restored',
      restoreFrom: 'ck-1',
    });
  });

  it('is not restored again when it has started before, unless every start is to be one', async () => {
    writeFileSync(note(), '');
    made.asks(POD);
    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'pass-through' });

    made.asks({ ...POD, 'kybernate.io/restore': 'every-start' });
    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'restored' });

    expect(made.prepared).toHaveLength(1);
    expect(readFileSync(made.marker(), 'utf8')).toBe(`${OPERATION}\n`);
  });

  it('is not rewound after a reboot, by an agent that comes up while it waits', async () => {
    made.asks({ ...POD, 'kybernate.io/on-failure': 'wait' });
    writeFileSync(note(), '');
    rmSync(join(made.dir, 'run'), { recursive: true });
    const begun = createOrRestore(made.deps(), made.argv);
    openPodStarts({ runDir: join(made.dir, 'run'), stateDir: join(made.dir, 'state') });

    expect(await begun).toEqual({ kind: 'pass-through' });
    expect(made.prepared).toEqual([]);
  });

  it.each([
    ['fail', 'failed'],
    ['cold-start', 'pass-through'],
  ])('follows the policy %s when nobody knows whether it has started before', async (policy, kind) => {
    made.asks({ ...POD, 'kybernate.io/on-failure': policy });
    rmSync(join(made.dir, 'run'), { recursive: true });

    expect((await createOrRestore(made.deps(), made.argv)).kind).toBe(kind);

    expect(made.prepared).toEqual([]);
    expect(started()).toBe(policy === 'cold-start');
  });

  it('fails by its own name, with the type and the percentage, when its checkpoint does not come in time', async () => {
    made.asks(POD);

    const outcome = await createOrRestore(made.deps(answering(pending)), made.argv);

    expect(outcome).toEqual({
      kind: 'failed',
      message:
        'kybernate: shop/web-0/app was not restored from ck-1: RestorePending: checkpoint ck-1 is on its way: 43 %',
    });
    expect(started()).toBe(false);
  });

  it('asks again under the policy wait while the reason passes, and not for one that stays', async () => {
    made.asks({ ...POD, 'kybernate.io/on-failure': 'wait' });
    const away = new KybernateError('NodeUnavailable', 'no agent');

    expect(await createOrRestore(made.deps(answering(away, undefined)), made.argv)).toEqual({ kind: 'restored' });
    expect(made.prepared).toHaveLength(2);

    const refused = new KybernateError('RestoreRefused', 'of another namespace');
    expect((await createOrRestore(made.deps(answering(refused)), made.argv)).kind).toBe('failed');
    expect(made.prepared).toHaveLength(3);
  });

  it('starts afresh under the policy cold-start when its own time is over, and notes the start', async () => {
    made.asks({ ...POD, 'kybernate.io/on-failure': 'cold-start', 'kybernate.io/restore-timeout': '10m' });
    expect((await createOrRestore(made.deps(answering(pending)), made.argv)).kind).toBe('failed');
    expect(started()).toBe(false);

    const longAgo = Date.now() / 1000 - 601;
    utimesSync(`${note()}.attempt`, longAgo, longAgo);

    expect(existsSync(`${note()}.outcome`)).toBe(false);
    expect((await createOrRestore(made.deps(answering(pending)), made.argv)).kind).toBe('pass-through');
    expect(started()).toBe(true);
    expect(JSON.parse(readFileSync(`${note()}.outcome`, 'utf8'))).toMatchObject({
      how: 'cold-started',
      reason: expect.stringContaining('43 %') as string,
    });
  });

  it('gives up under the policy wait when its own time is over, without a call to the agent', async () => {
    made.asks({ ...POD, 'kybernate.io/on-failure': 'wait', 'kybernate.io/restore-timeout': '60s' });
    writeFileSync(`${note()}.attempt`, '');
    const longAgo = Date.now() / 1000 - 61;
    utimesSync(`${note()}.attempt`, longAgo, longAgo);

    const outcome = await createOrRestore(made.deps(), made.argv);

    expect(outcome).toMatchObject({ message: expect.stringContaining('not restored within 60 s') as string });
    expect(made.prepared).toEqual([]);
  });

  it('runs as usual when only a variable asks, and the node does not listen to it', async () => {
    writeFileSync(made.config(), JSON.stringify({ annotations: POD, process: { env: ['RESTORE_FROM=backup-7'] } }));
    const refused = new KybernateError('RestoreRefused', 'switched off', { details: { switchedOff: true } });

    expect(await createOrRestore(made.deps(answering(refused)), made.argv)).toEqual({ kind: 'pass-through' });
  });
});
