import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NAMESPACE, NODE, openBench } from './environment.ts';
import type { Subject } from './subject.ts';

const ID = 'loop';
const BUSYBOX = 'docker.io/kybernate/busybox:1';

/** What durability costs: the whole workflow, hashed, synced and committed, against the bare runc and CRIU sequence. */
export const orchestrationSubject: Subject = {
  name: 'orchestration',
  what: 'workflow `checkpoint` from start to result (durability local) against bare runc checkpoint of the same container',
  unit: 'ms',
  rounds: { full: 15, quick: 5 },
  goal: { kind: 'difference', limit: 150 },
  async open() {
    const bench = await openBench([BUSYBOX], true);
    await bench.ctr('run', '-d', '--null-io', BUSYBOX, ID, '/bin/sh', '-c', 'while true; do sleep 1; done');
    await sleep(500);
    const phases: Record<string, number>[] = [];
    async function ours(): Promise<number> {
      const startedAt = performance.now();
      const handle = await bench.client.checkpoint({
        node: NODE,
        container: { id: ID, namespace: NAMESPACE },
        durability: 'local',
      });
      const result = await handle.result();
      phases.push({ ...result.phases.parts, totalInRunner: result.phases.totalMs });
      return performance.now() - startedAt;
    }
    return {
      async round(index) {
        const dir = join(bench.dir, `bare-${index}`);
        const peer = (): Promise<number> => bench.bareCheckpoint(ID, dir);
        const sample =
          index % 2 === 0 ? { peer: await peer(), ours: await ours() } : { ours: await ours(), peer: await peer() };
        await rm(dir, { recursive: true, force: true });
        return sample;
      },
      facts: () => ({ lastPhases: phases.at(-1) }),
      async close() {
        await bench.remove(ID);
        await bench.close();
      },
    };
  },
};
