import { median } from '../subject.ts';

/** Wall-clock and processor time of one act. */
export interface Cost {
  readonly ms: number;
  readonly cpuMs: number;
}

/** Runs all of them in turn, `rounds` times after one that warms up; the order turns by one each round. */
export async function inTurn<Name extends string>(
  acts: Readonly<Record<Name, () => Promise<Cost>>>,
  rounds: number,
): Promise<Record<Name, Cost>> {
  const names = Object.keys(acts) as Name[];
  const costs = new Map<Name, Cost[]>(names.map((name) => [name, []]));
  for (let round = 0; round <= rounds; round += 1) {
    for (let turn = 0; turn < names.length; turn += 1) {
      const name = names[(round + turn) % names.length];
      const cost = name === undefined ? undefined : await acts[name]();
      if (name !== undefined && cost !== undefined && round > 0) {
        costs.get(name)?.push(cost);
      }
    }
  }
  const entries = names.map((name) => {
    const all = costs.get(name) ?? [];
    return [name, { ms: median(all.map(({ ms }) => ms)), cpuMs: median(all.map(({ cpuMs }) => cpuMs)) }] as const;
  });
  return Object.fromEntries(entries) as Record<Name, Cost>;
}

/** How many times as fast ours is, by wall clock and by processor time. */
export function speedup(peer: Cost, ours: Cost): { readonly wall: number; readonly cpu: number } {
  return { wall: rounded(peer.ms / ours.ms), cpu: rounded(peer.cpuMs / ours.cpuMs) };
}

export function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}

export function megabytesPerSecond(bytes: number, { ms }: Cost): number {
  return Math.round(bytes / 1000 / ms);
}
