/*
 * What happens in a round, from the seed and the round's number alone: an operation for every job, and strikes against
 * them. The same seed and number give the same round, however the machine runs it.
 */
import { assertNever } from '../../core/errors.ts';
import { seeded } from '../harness/random.ts';
import { type ServiceName } from './rig.ts';

export type Wish =
  | {
      readonly kind: 'checkpoint';
      readonly after: 'resume' | 'hold' | 'stop';
      readonly durability: 'local' | 'remote' | 'verified';
      readonly engine: 'runc' | 'containerd';
      /** ends a hold before its budget does */
      readonly releases: boolean;
    }
  /** its owner ends the container and brings the newest checkpoint back */
  | { readonly kind: 'replace'; readonly source: 'auto' | 'store' };

export const VICTIMS = ['runner', 'guard', 'criu', 'criu-keeper', 'runc', 'wrapper', 'shim'] as const;
export type Victim = (typeof VICTIMS)[number];

export type Act =
  | { readonly kind: 'kill-service'; readonly service: ServiceName; readonly restartMs: number }
  | { readonly kind: 'kill'; readonly victim: Victim }
  | { readonly kind: 'cut-store'; readonly how: 'refuse' | 'cut' | 'lose'; readonly ms: number }
  | { readonly kind: 'fill-disk'; readonly leftBytes: number; readonly ms: number }
  | { readonly kind: 'cancel' | 'terminate' | 'reset' };

export interface Strike {
  /** index of the job whose operation tells the moment */
  readonly job: number;
  /** which of its operations */
  readonly turn: number;
  /** `<step> <state>` of the journal or of the restore's record; `start`: the operation's begin */
  readonly at: string;
  /** after that moment */
  readonly delayMs: number;
  readonly act: Act;
}

export interface Round {
  readonly number: number;
  /** of every job, one after the other */
  readonly wishes: ReadonlyArray<readonly Wish[]>;
  readonly strikes: readonly Strike[];
}

const CHECKPOINT_MOMENTS = [
  'start',
  'armed done',
  'freezing begin',
  'frozen done',
  'dumped done',
  'captured done',
  'thawed begin',
  'thawed done',
  'resumed done',
  'committed',
] as const;
const HELD_MOMENTS = ['held done', 'killed begin', 'killed done'] as const;
const GPU_MOMENTS = ['gpu-locking begin', 'gpu-saved done', 'gpu-restoring begin', 'gpu-restored done'] as const;
const RESTORE_MOMENTS = ['start', 'registered', 'prepared', 'restored'] as const;

/** When they are there: who is struck at another moment is struck not at all. */
const MOMENTS_OF: Readonly<Record<Victim, readonly string[]>> = {
  runner: CHECKPOINT_MOMENTS.slice(1, -1),
  guard: CHECKPOINT_MOMENTS.slice(1, -1),
  criu: ['freezing begin', 'frozen done'],
  'criu-keeper': ['freezing begin', 'frozen done'],
  runc: ['freezing begin', 'frozen done'],
  wrapper: RESTORE_MOMENTS,
  shim: CHECKPOINT_MOMENTS,
};

/** As often as their numbers say. */
const CHECKPOINT_VICTIMS: Readonly<Record<string, number>> = {
  runner: 5,
  guard: 3,
  criu: 4,
  'criu-keeper': 1,
  runc: 3,
  shim: 1,
};
const RESTORE_VICTIMS: Readonly<Record<string, number>> = { wrapper: 4, runc: 3, criu: 3, shim: 2 };
const SERVICE_WEIGHTS: Readonly<Record<ServiceName, number>> = {
  'worker-node': 4,
  'worker-control': 1,
  sidecar: 2,
  temporal: 1,
  containerd: 2,
};
/** Operations of a job in a round. */
const TURNS = 3;

class Dice {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = seeded(seed);
  }

  below(limit: number): number {
    return Math.floor(this.#next() * limit);
  }

  chance(share: number): boolean {
    return this.#next() < share;
  }

  of<Item>(items: readonly Item[]): Item {
    const item = items[this.below(items.length)];
    if (item === undefined) {
      throw new Error('nothing to choose from');
    }
    return item;
  }

  weighted<Name extends string>(weights: Readonly<Partial<Record<Name, number>>>): Name {
    const names = Object.keys(weights) as Name[];
    return this.of(names.flatMap((name) => Array.from({ length: weights[name] ?? 0 }, () => name)));
  }
}

/** What a plan needs to know of a job. */
export interface JobFacts {
  readonly hasGpu?: boolean;
  readonly isPlain?: boolean;
}

/** @param jobs in their order */
export function planRound(seed: number, number: number, jobs: readonly JobFacts[]): Round {
  const dice = new Dice((Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b)) >>> 0);
  const wishes = jobs.map((job) => Array.from({ length: TURNS }, () => planWish(dice, job)));
  const strikes = Array.from({ length: 14 + dice.below(11) }, () => planStrike(dice, wishes, jobs));
  return { number, wishes, strikes };
}

function planWish(dice: Dice, { isPlain = false }: JobFacts): Wish {
  if (dice.chance(0.2)) {
    return { kind: 'replace', source: dice.chance(0.4) ? 'store' : 'auto' };
  }
  return {
    kind: 'checkpoint',
    after: dice.weighted({ resume: 6, hold: 2, stop: 2 }),
    durability: dice.weighted({ local: 4, remote: 4, verified: 1 }),
    engine: isPlain && dice.chance(0.15) ? 'containerd' : 'runc',
    releases: dice.chance(0.5),
  };
}

function planStrike(dice: Dice, wishes: Round['wishes'], jobs: readonly JobFacts[]): Strike {
  const job = dice.below(wishes.length);
  const turn = dice.below(TURNS);
  const wish = wishes[job]?.[turn];
  const act = planAct(dice, wish?.kind === 'replace');
  const moments =
    wish?.kind === 'replace'
      ? RESTORE_MOMENTS
      : [
          ...(act.kind === 'kill' ? MOMENTS_OF[act.victim] : CHECKPOINT_MOMENTS),
          ...(wish?.after === 'resume' ? [] : HELD_MOMENTS),
          ...(jobs[job]?.hasGpu === true ? GPU_MOMENTS : []),
        ];
  const at = dice.of<string>(moments);
  const delayMs = at === 'start' ? dice.below(1200) : dice.chance(0.5) ? dice.below(8) : dice.below(150);
  return { job, turn, at, delayMs, act };
}

function planAct(dice: Dice, isRestore: boolean): Act {
  const kind = dice.weighted({
    'kill-service': 4,
    kill: 22,
    'cut-store': 1,
    'fill-disk': 1,
    cancel: 1,
    terminate: 1,
    reset: 1,
  });
  switch (kind) {
    case 'kill-service': {
      const service = dice.weighted(SERVICE_WEIGHTS);
      return { kind, service, restartMs: dice.below(3000) };
    }
    case 'kill':
      return { kind, victim: dice.weighted(isRestore ? RESTORE_VICTIMS : CHECKPOINT_VICTIMS) as Victim };
    case 'cut-store':
      return { kind, how: dice.of(['refuse', 'cut', 'lose'] as const), ms: 500 + dice.below(2500) };
    case 'fill-disk':
      return { kind, leftBytes: dice.below(4 * 1024 ** 2), ms: 500 + dice.below(2000) };
    case 'cancel':
    case 'terminate':
    case 'reset':
      return { kind };
    default:
      return assertNever(kind);
  }
}

export function describeRound({ number, wishes, strikes }: Round): string {
  const wish = (one: Wish): string =>
    one.kind === 'replace' ? `replace(${one.source})` : `${one.after}/${one.durability}/${one.engine}`;
  const strike = ({ job, turn, at, delayMs, act }: Strike): string =>
    `${actName(act)} of job ${job}.${turn} ${delayMs} ms after ${at}`;
  return `round ${number}: ${wishes.map((ones) => ones.map(wish).join(' ')).join(', ')}; ${strikes.map(strike).join('; ')}`;
}

export function actName(act: Act): string {
  switch (act.kind) {
    case 'kill-service':
      return `kill ${act.service} (back after ${act.restartMs} ms)`;
    case 'kill':
      return `kill ${act.victim}`;
    case 'cut-store':
      return `${act.how} the store for ${act.ms} ms`;
    case 'fill-disk':
      return `fill the disk for ${act.ms} ms`;
    case 'cancel':
    case 'terminate':
    case 'reset':
      return act.kind;
    default:
      return assertNever(act);
  }
}
