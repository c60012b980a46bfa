import { afterEach, describe, expect, it, vi } from 'vitest';
import type { GaugeName, GaugeValue, Meter } from '../core/metrics.ts';
import type { Logger } from '../core/op.ts';
import { FakeApiServer, type Treatment } from '../test/harness/fake-apiserver.ts';
import type { OperationState, Operations } from './operations.ts';
import { runOperator } from './run.ts';
import { newOperatorState, whyNotReady, type OperatorState } from './state.ts';

const silent = (): void => undefined;
const log: Logger = { debug: silent, info: silent, warn: silent, error: silent };
const SOURCE = { source: { node: 'node-a', archive: '/a' } };
/** Who cannot renew it stops after 1.3 s, and after 2 s another one takes it. */
const SHORT_LEASE = { renewMs: 150, durationS: 2 };
const LONG_LEASE = { renewMs: 150, durationS: 60 };
const WAIT = { timeout: 20_000, interval: 20 };

/** One Temporal for all operators of a test: who started what. */
interface Started {
  readonly by: string;
  readonly workflowId: string;
  /** names of the operators that led then */
  readonly leaders: readonly string[];
}

interface Running {
  readonly state: OperatorState;
  readonly gauges: Map<string, () => Promise<ReadonlyArray<GaugeValue<GaugeName>>>>;
  readonly errors: string[];
  readonly done: Promise<void>;
  readonly treat: (treatment: Treatment) => void;
  /** As SIGTERM does. */
  readonly stop: () => void;
}

class Scene {
  readonly #lease: typeof SHORT_LEASE;

  constructor(lease = LONG_LEASE) {
    this.#lease = lease;
  }

  readonly server = new FakeApiServer();
  readonly started: Started[] = [];
  readonly running = new Map<string, Running>();
  readonly #states = new Map<string, OperationState>();

  async start(name: string, operations: Partial<Operations> = {}): Promise<Running> {
    const { config, treat } = await this.server.client();
    const state = newOperatorState();
    const end = new AbortController();
    const gauges: Running['gauges'] = new Map();
    const errors: string[] = [];
    const meter: Meter = {
      add: (metric, labels) => void errors.push(`${metric} ${JSON.stringify(labels)}`),
      observe: silent,
      gauge: (metric, read) => void gauges.set(metric, read),
    };
    const done = runOperator({
      kubernetes: config,
      operations: { ...this.#operations(name), ...operations },
      log,
      signal: end.signal,
      state,
      meter,
      leaseNamespace: 'kybernate',
      identity: name,
      lease: this.#lease,
    });
    const running: Running = { state, gauges, errors, done, treat, stop: () => end.abort() };
    this.running.set(name, running);
    return running;
  }

  async close(): Promise<void> {
    this.running.forEach(({ stop }) => stop());
    this.server.close();
    await Promise.all([...this.running.values()].map(({ done }) => done));
  }

  #operations(by: string): Operations {
    const start = (workflowId: string): Promise<void> => {
      const leaders = [...this.running].flatMap(([name, { state }]) => (state.leads ? [name] : []));
      this.started.push({ by, workflowId, leaders });
      this.#states.set(workflowId, { state: 'running', step: 'importing' });
      return Promise.resolve();
    };
    return {
      startCheckpoint: start,
      startImport: start,
      startDelete: start,
      startInspect: start,
      look: (workflowId) => Promise.resolve(this.#states.get(workflowId) ?? { state: 'unknown' }),
      cancel: () => Promise.resolve(),
      nodesOf: () => Promise.resolve([]),
    };
  }
}

const scenes: Scene[] = [];
afterEach(async () => {
  await Promise.all(scenes.splice(0).map((scene) => scene.close()));
});

/** One operator leads, the other waits, and the first object is handled. */
async function leaderAndNext(lease = LONG_LEASE): Promise<{ scene: Scene; first: Running; second: Running }> {
  const scene = new Scene(lease);
  scenes.push(scene);
  const first = await scene.start('a');
  await vi.waitFor(() => expect(first.state.leads).toBe(true), WAIT);
  const second = await scene.start('b');
  scene.server.create('checkpoints', 'ml', 'one', SOURCE);
  await vi.waitFor(() => expect(scene.started).toHaveLength(1), WAIT);
  await vi.waitFor(() => expect(second.state.leaseSeenMs).toBeDefined(), WAIT);
  return { scene, first, second };
}

const ids = ({ started }: Scene): string[] => started.map(({ by, workflowId }) => `${by} ${workflowId}`);

describe('of two operators', { timeout: 30_000 }, () => {
  it('one acts, the other waits for its turn, and both are ready', async () => {
    const { scene, first, second } = await leaderAndNext();

    expect(ids(scene)).toEqual(['a importCheckpoint:kubernetes:uid-one']);
    expect([first.state.leads, second.state.leads]).toEqual([true, false]);
    expect(whyNotReady(first.state, performance.now())).toBeUndefined();
    expect(whyNotReady(second.state, performance.now())).toBeUndefined();
  });

  it.each<[string, Treatment]>([
    ['is cut off from the API server', 'gone'],
    ['gets no answers from the API server any more', 'hangs'],
  ])('the second takes over when the first %s, which has stopped before', async (_what, treatment) => {
    const { scene, first, second } = await leaderAndNext(SHORT_LEASE);

    first.treat(treatment);
    await vi.waitFor(() => expect(first.state.leads).toBe(false), { timeout: 20_000, interval: 5 });
    await vi.waitFor(() => expect(second.state.leads).toBe(true), WAIT);
    scene.server.create('checkpoints', 'ml', 'two', SOURCE);
    await vi.waitFor(() => expect(scene.started).toHaveLength(2), WAIT);

    // What the first had begun is found, not begun again.
    expect(ids(scene)).toEqual(['a importCheckpoint:kubernetes:uid-one', 'b importCheckpoint:kubernetes:uid-two']);
    expect(scene.started.map(({ leaders }) => leaders)).toEqual([['a'], ['b']]);
    await first.done;
  });

  it('the second need not wait for the lease of one that was asked to stop', async () => {
    const { scene, first, second } = await leaderAndNext();

    first.stop();
    await first.done;

    expect(scene.server.holderOf('kybernate', 'kybernate-operator')).not.toBe('a');
    await vi.waitFor(() => expect(second.state.leads).toBe(true), WAIT);
  });
});

describe('the metrics of an operator', { timeout: 30_000 }, () => {
  it('tell its objects by kind and phase, its queue, and that it leads', async () => {
    const { first, second } = await leaderAndNext();
    const read = async ({ gauges }: Running, name: GaugeName): Promise<Record<string, number>> => {
      const values = (await gauges.get(name)?.()) ?? [];
      return Object.fromEntries(
        values.flatMap(({ labels, value }) => (value === 0 ? [] : [[Object.values(labels).join(' '), value]])),
      );
    };

    await vi.waitFor(async () => {
      expect(await read(first, 'kybernate_operator_objects')).toEqual({ 'Checkpoint Running': 1 });
    }, WAIT);
    expect(await read(second, 'kybernate_operator_objects')).toEqual({});
    expect(await read(first, 'kybernate_operator_leader')).toEqual({ '': 1 });
    expect(await read(second, 'kybernate_operator_leader')).toEqual({});
    await vi.waitFor(async () => expect(await read(first, 'kybernate_operator_queue_length')).toEqual({}), WAIT);
    expect((await first.gauges.get('kybernate_operator_queue_length')?.())?.map(({ labels }) => labels)).toEqual([
      { kind: 'Checkpoint' },
      { kind: 'Restore' },
    ]);
  });

  it('count the turns that failed', async () => {
    const scene = new Scene();
    scenes.push(scene);
    const operator = await scene.start('a', { look: () => Promise.reject(new Error('Temporal is away')) });
    scene.server.create('checkpoints', 'ml', 'one', SOURCE);

    await vi.waitFor(() => expect(operator.errors.length).toBeGreaterThan(0), WAIT);

    expect(operator.errors[0]).toBe('kybernate_operator_reconcile_errors_total {"kind":"Checkpoint"}');
  });
});

describe('an operator', () => {
  it.each<[string, Partial<OperatorState>, string | undefined]>([
    ['is not ready before the API server has answered', {}, 'the API server does not answer about the lease'],
    ['is ready while it waits', { leaseSeenMs: 100_000 }, undefined],
    [
      'is not ready when the last answer is old',
      { leaseSeenMs: 70_000 },
      'the API server does not answer about the lease',
    ],
    [
      'is not ready when it leads and watches one kind only',
      { leaseSeenMs: 100_000, leads: true, watched: new Set(['Restore'] as const) },
      'it leads, and does not watch Checkpoint',
    ],
  ])('%s', (_fact, change, why) => {
    expect(whyNotReady({ ...newOperatorState(), ...change }, 100_000)).toBe(why);
  });
});
