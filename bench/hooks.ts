import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CRIU_EVENTS } from '../core/hooks.ts';
import { openBench } from './environment.ts';
import { openTicker, PYTHON } from './freeze.ts';
import type { Subject } from './subject.ts';

const MIB = 16;

/** Ours both times, since nobody else has such a directory: what a node pays for hooks that it does not have. */
export const hooksSubject: Subject = {
  name: 'hooks',
  what: `time that a container with ${MIB} MiB stands still in a checkpoint: no hook directory, and one with a directory for each event and no hook`,
  unit: 'ms',
  rounds: { full: 12, quick: 4 },
  goal: { kind: 'ratio', limit: 1.1 },
  async open() {
    const hooksOf = (dir: string): string => join(dir, 'hooks.d');
    const bench = await openBench([PYTHON], true, (dir) => ({ KYBERNATE_HOOKS_DIR: hooksOf(dir) }));
    const dir = hooksOf(bench.dir);
    const ticker = await openTicker(bench, MIB);
    const without = async (): Promise<number> => {
      await rm(dir, { recursive: true, force: true });
      return ticker.gap(() => ticker.checkpoint());
    };
    const withEmpty = async (): Promise<number> => {
      await Promise.all(CRIU_EVENTS.map((event) => mkdir(join(dir, event), { recursive: true, mode: 0o755 })));
      return ticker.gap(() => ticker.checkpoint());
    };
    return {
      round: async (index) =>
        index % 2 === 0
          ? { peer: await without(), ours: await withEmpty() }
          : { ours: await withEmpty(), peer: await without() },
      facts: () => ({ memoryMiB: MIB }),
      async close() {
        await ticker.remove();
        await bench.close();
      },
    };
  },
};
