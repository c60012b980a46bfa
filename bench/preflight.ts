import { setTimeout as sleep } from 'node:timers/promises';
import type { PreflightRequest } from '../client/index.ts';
import { NAMESPACE, NODE, openBench } from './environment.ts';
import type { Subject } from './subject.ts';

const ID = 'flight';
const PYTHON = 'docker.io/kybernate/python:1';

/** How long a node looks before it says that a checkpoint may be restored there. There is nothing to compare it with. */
export const preflightSubject: Subject = {
  name: 'preflight',
  what: 'every check of the workflow `preflight` on the node: of the restore of a checkpoint in the store; peer: of the running container',
  unit: 'ms',
  rounds: { full: 15, quick: 5 },
  goal: { kind: 'limit', limit: 100 },
  async open() {
    const bench = await openBench([PYTHON], true);
    await bench.ctr('run', '-d', '--null-io', PYTHON, ID, '/usr/bin/python3', '-c', 'import time; time.sleep(1e6)');
    await sleep(500);
    const container = { id: ID, namespace: NAMESPACE };
    const { checkpointId } = await (await bench.client.checkpoint({ node: NODE, container })).result();
    async function look(request: Omit<PreflightRequest, 'node'>): Promise<number> {
      const { fits, findings, checkMs } = await (await bench.client.preflight({ node: NODE, ...request })).result();
      if (!fits) {
        throw new Error(`it does not fit: ${findings.map(({ message }) => message).join('; ')}`);
      }
      return checkMs;
    }
    const first = await look({ checkpointId, as: { id: 'copy' }, source: 'store' });
    return {
      round: async () => ({
        peer: await look({ container }),
        ours: await look({ checkpointId, as: { id: 'copy' }, source: 'store' }),
      }),
      // The node has not asked its programs anything before.
      facts: () => ({ firstMs: first }),
      async close() {
        await bench.remove(ID);
        await bench.close();
      },
    };
  },
};
