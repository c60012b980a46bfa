/*
 * What is measured, by name: the one table from which processes register, docs/metrics.md is made, and dashboard and
 * alerts are checked. A process counts what it learns from results and journals, after the fact: nothing of this runs
 * between a freeze and its thaw.
 */

/** Which process answers with the metric: `workflows` are counted by Temporal's own meter, in the control worker. */
export type MetricProcess = 'workflows' | 'control' | 'node' | 'sidecar' | 'operator';

interface MetricRow {
  readonly kind: 'counter' | 'histogram' | 'gauge';
  readonly processes: readonly MetricProcess[];
  readonly labels: readonly string[];
  readonly help: string;
  /** upper bounds of a histogram's buckets */
  readonly buckets?: readonly number[];
}

/** From a freeze that nobody feels to one past every budget. */
const FREEZE_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
/** From a step of milliseconds to the upload of a day. */
const LONG_S = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 7200, 28_800];
const REQUEST_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60];
/** 1 MiB to 1 TiB, by fours. */
const SIZE_BYTES = Array.from({ length: 11 }, (_, power) => 2 ** 20 * 4 ** power);

export const METRICS = {
  kybernate_operations_total: {
    kind: 'counter',
    processes: ['workflows'],
    labels: ['operation', 'source_node', 'outcome'],
    help: 'Operations that have ended. `outcome` is `Completed`, `Cancelled`, or the error type',
  },
  kybernate_operation_seconds: {
    kind: 'histogram',
    processes: ['workflows'],
    labels: ['operation', 'outcome'],
    help: 'From the start of an operation to its end, the waiting for locks and stores included',
    buckets: LONG_S,
  },
  kybernate_phase_seconds: {
    kind: 'histogram',
    processes: ['workflows'],
    labels: ['operation', 'phase'],
    help: 'Time of an operation in each of its phases; they add up to the operation',
    buckets: LONG_S,
  },
  kybernate_freeze_seconds: {
    kind: 'histogram',
    processes: ['node'],
    labels: [],
    help: 'How long a workload stood still in a capture, from the first write to its freezer to the last',
    buckets: FREEZE_S,
  },
  kybernate_capture_part_seconds: {
    kind: 'histogram',
    processes: ['node'],
    labels: ['part'],
    help: 'Parts of a capture as the runner measured them, those inside the freeze among them',
    buckets: FREEZE_S,
  },
  kybernate_gpu_pause_seconds: {
    kind: 'histogram',
    processes: ['node'],
    labels: [],
    help: 'How long the GPU was out of use in a capture, from the first lock to the last unlock',
    buckets: FREEZE_S,
  },
  kybernate_gpu_part_seconds: {
    kind: 'histogram',
    processes: ['node'],
    labels: ['operation', 'part'],
    help: 'Lock, save, restore and unlock of GPU state. `operation` is `checkpoint` or `restore`',
    buckets: FREEZE_S,
  },
  kybernate_vram_bytes_total: {
    kind: 'counter',
    processes: ['node'],
    labels: ['operation'],
    help: 'GPU memory that was saved (`checkpoint`) or brought back (`restore`)',
  },
  kybernate_checkpoint_bytes: {
    kind: 'histogram',
    processes: ['node'],
    labels: [],
    help: 'Size of a checkpoint that was committed on the node, all its files',
    buckets: SIZE_BYTES,
  },
  kybernate_restore_seconds: {
    kind: 'histogram',
    processes: ['node'],
    labels: ['how'],
    help: 'From the first instruction of the runtime to running processes. `how` is `restored` or `cold-started`',
    buckets: FREEZE_S,
  },
  kybernate_fetched_bytes_total: {
    kind: 'counter',
    processes: ['node'],
    labels: [],
    help: 'Bytes that restores brought from the store to the node, after they were unpacked and checked',
  },
  kybernate_moved_bytes_total: {
    kind: 'counter',
    processes: ['control', 'node', 'sidecar'],
    labels: ['phase'],
    help: 'Bytes that long steps have gone through, counted while they move: `rate()` of it is the speed now',
  },
  kybernate_step_failures_total: {
    kind: 'counter',
    processes: ['control', 'node', 'sidecar'],
    labels: ['step', 'type'],
    help: 'Attempts of steps that failed, by error type; a step that is tried again counts each time',
  },
  kybernate_poisoned_total: {
    kind: 'counter',
    processes: ['node'],
    labels: [],
    help: 'Workloads of which nobody can say that they run: a person has to look. See `Poisoned` in errors.md',
  },
  kybernate_guard_actions_total: {
    kind: 'counter',
    processes: ['node'],
    labels: ['cause'],
    help: 'Workloads that the freeze guard brought back. `cause` is `runner-gone`, `freeze-budget` or `hold-budget`',
  },
  kybernate_node_operations: {
    kind: 'gauge',
    processes: ['node'],
    labels: ['state'],
    help: 'Operations under way on the node now: `standing-still` while the workload may be frozen, held or its GPU out of use, `restoring`, or `other`',
  },
  kybernate_leftovers: {
    kind: 'gauge',
    processes: ['node'],
    labels: [],
    help: 'Operations of earlier workers that the last look could not put in order; 0 is healthy',
  },
  kybernate_reconciled_total: {
    kind: 'counter',
    processes: ['node'],
    labels: ['what'],
    help: 'What was found without an owner and put in order: `undone` frozen sections, `cleaned` operations, `removed` files',
  },
  kybernate_state_free_bytes: {
    kind: 'gauge',
    processes: ['node'],
    labels: [],
    help: 'Free space of the disk that holds the checkpoints of the node',
  },
  kybernate_local_checkpoints: {
    kind: 'gauge',
    processes: ['node'],
    labels: ['upload'],
    help: 'Committed checkpoints on the disk of the node; `pending` are those that are still to be in the store, `none` the others',
  },
  kybernate_store_request_seconds: {
    kind: 'histogram',
    processes: ['control', 'sidecar'],
    labels: ['request', 'outcome'],
    help: 'Requests to the store, their own retries included: transfers by the sidecar, catalog and garbage by the control worker. `outcome` is `ok` or the error type',
    buckets: REQUEST_S,
  },
  kybernate_store_bytes_total: {
    kind: 'counter',
    processes: ['control', 'sidecar'],
    labels: ['direction'],
    help: 'Bytes of objects that went to the store (`up`) and came from it (`down`)',
  },
  kybernate_uploaded_bytes_total: {
    kind: 'counter',
    processes: ['sidecar'],
    labels: [],
    help: 'Bytes that uploads sent: what is left after zero and known chunks are left out and the rest is compressed',
  },
  kybernate_transfers_total: {
    kind: 'counter',
    processes: ['sidecar'],
    labels: ['kind', 'status'],
    help: 'Transfers by the socket of the sidecar that have ended, `done`, `failed` or `cancelled`',
  },
  kybernate_transfers: {
    kind: 'gauge',
    processes: ['sidecar'],
    labels: ['status'],
    help: 'Transfers by the socket of the sidecar that are `queued` or `running` now',
  },
  kybernate_tier_bytes: {
    kind: 'gauge',
    processes: ['sidecar'],
    labels: ['tier'],
    help: 'What lies in a tier of the node, `ram` or `nvme`',
  },
  kybernate_tier_limit_bytes: {
    kind: 'gauge',
    processes: ['sidecar'],
    labels: ['tier'],
    help: 'How much of it the tier may fill',
  },
  kybernate_operator_leader: {
    kind: 'gauge',
    processes: ['operator'],
    labels: [],
    help: 'Whether this operator acts (1) or waits for its turn (0); the sum over all of them is 1 but for seconds',
  },
  kybernate_operator_objects: {
    kind: 'gauge',
    processes: ['operator'],
    labels: ['kind', 'phase'],
    help: 'Objects by kind and phase, `New` before their first one, as the operator that acts sees them',
  },
  kybernate_operator_queue_length: {
    kind: 'gauge',
    processes: ['operator'],
    labels: ['kind'],
    help: 'Objects that have changed and wait for their turn; 0 but for bursts',
  },
  kybernate_operator_reconcile_errors_total: {
    kind: 'counter',
    processes: ['operator'],
    labels: ['kind'],
    help: 'Turns of objects that failed, of the API server or Temporal mostly, and are repeated; an operation that failed is none',
  },
} as const satisfies Record<string, MetricRow>;

type Table = typeof METRICS;
export type MetricName = keyof Table;
type NameOf<Kind extends MetricRow['kind']> = {
  [Name in MetricName]: Table[Name]['kind'] extends Kind ? Name : never;
}[MetricName];
export type CounterName = NameOf<'counter'>;
export type HistogramName = NameOf<'histogram'>;
export type GaugeName = NameOf<'gauge'>;
/** Each label of the metric to its value. */
export type LabelsOf<Name extends MetricName> = Readonly<Record<Table[Name]['labels'][number], string>>;

/** One value of a gauge at the time of the question. */
export interface GaugeValue<Name extends GaugeName> {
  readonly labels: LabelsOf<Name>;
  readonly value: number;
}

/** What engine, store and activities count with. Cheap: may be called for every object of a transfer. */
export interface Meter {
  add<Name extends CounterName>(name: Name, labels: LabelsOf<Name>, by?: number): void;
  observe<Name extends HistogramName>(name: Name, labels: LabelsOf<Name>, value: number): void;
  /** @param read asked when somebody reads the metrics; it replaces what was asked before */
  gauge<Name extends GaugeName>(name: Name, read: () => Promise<ReadonlyArray<GaugeValue<Name>>>): void;
}

/** Nobody reads: nothing is kept. */
export const NO_METER: Meter = { add: () => undefined, observe: () => undefined, gauge: () => undefined };

/** Buckets of every histogram of a process, by name. */
export function bucketsOf(process: MetricProcess): Record<string, number[]> {
  return Object.fromEntries(
    Object.entries<MetricRow>(METRICS)
      .filter(([, row]) => row.processes.includes(process) && row.buckets !== undefined)
      .map(([name, { buckets = [] }]) => [name, [...buckets]]),
  );
}
