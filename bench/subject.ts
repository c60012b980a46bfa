/*
 * One comparison: the peer and ours, run in turn in one process on one machine, so that a drift of the machine's speed
 * meets both. The judgement is on the ratio (or the difference) of medians; on an absolute time only where there is no peer.
 */

export interface Sample {
  readonly peer: number;
  readonly ours: number;
}

export interface Subject {
  readonly name: string;
  readonly what: string;
  readonly unit: 'ms' | 's' | 'MB/s';
  /** rounds of a full and of a quick run */
  readonly rounds: { readonly full: number; readonly quick: number };
  /** what must not exceed `limit`; `ratio`: ours / peer; `difference`: ours - peer; `limit`: ours, in `unit` */
  readonly goal: { readonly kind: 'ratio' | 'difference' | 'limit'; readonly limit: number };
  /** Prepares once; each call of `round` measures peer and ours once, in an order that alternates with `index`. */
  open(): Promise<{ round(index: number): Promise<Sample>; facts?(): Record<string, unknown>; close(): Promise<void> }>;
}

export interface Report {
  readonly subject: string;
  readonly ours: number;
  readonly peer: number;
  readonly ratio: number;
  readonly difference: number;
  readonly unit: string;
  readonly goal: string;
  readonly holds: boolean;
  readonly rounds: number;
  readonly samples: readonly Sample[];
  readonly [fact: string]: unknown;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** Runs a subject; the first round warms up and is not counted. */
export async function measure(subject: Subject, quick: boolean, say: (line: string) => void): Promise<Report> {
  const rounds = quick ? subject.rounds.quick : subject.rounds.full;
  const opened = await subject.open();
  const samples: Sample[] = [];
  try {
    for (let index = 0; index <= rounds; index += 1) {
      const sample = await opened.round(index);
      say(
        `${subject.name} ${index === 0 ? 'warm-up' : index}: peer ${sample.peer.toFixed(1)}, ours ${sample.ours.toFixed(1)} ${subject.unit}`,
      );
      if (index > 0) {
        samples.push({ peer: round(sample.peer), ours: round(sample.ours) });
      }
    }
    const ours = median(samples.map((sample) => sample.ours));
    const peer = median(samples.map((sample) => sample.peer));
    const judged = { ratio: ours / peer, difference: ours - peer, limit: ours }[subject.goal.kind];
    return {
      subject: subject.name,
      ours: round(ours),
      peer: round(peer),
      ratio: round(ours / peer),
      difference: round(ours - peer),
      unit: subject.unit,
      goal: `${subject.goal.kind} <= ${subject.goal.limit}${subject.goal.kind === 'ratio' ? '' : ` ${subject.unit}`}`,
      holds: judged <= subject.goal.limit,
      rounds,
      samples,
      ...opened.facts?.(),
    };
  } finally {
    await opened.close();
  }
}
