/* Whether the operator lives and can act, for the probes of its pod: `GET /healthz`, `GET /readyz`. */
import { createServer } from 'node:http';
import { whyNotReady, type OperatorState } from '../operator/state.ts';
import { listenAt } from './listen-at.ts';

export interface Health {
  /** where it answers; undefined: nowhere */
  readonly address: string | undefined;
  close(): Promise<void>;
}

/**
 * @param address `host:port`; undefined: nobody asks
 * @throws InvalidInput it is taken, or not of this machine
 */
export async function startHealth(address: string | undefined, state: OperatorState): Promise<Health> {
  if (address === undefined) {
    return { address, close: () => Promise.resolve() };
  }
  const server = createServer(({ method, url }, response) => {
    if (method !== 'GET' || (url !== '/healthz' && url !== '/readyz')) {
      response.writeHead(404).end('GET /healthz, GET /readyz\n');
      return;
    }
    // Who answers at all lives: an operator that has lost its lease has ended.
    const why = url === '/healthz' ? undefined : whyNotReady(state, performance.now());
    response.writeHead(why === undefined ? 200 : 503).end(`${why ?? (state.leads ? 'it leads' : 'it waits')}\n`);
  });
  const bound = await listenAt(server, address, 'KYBERNATE_HEALTH_ADDRESS');
  return {
    address: bound,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
