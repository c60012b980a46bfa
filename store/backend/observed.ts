/* A store whose requests are counted and told to a tracer; what it does stays the same. */
import { isKybernateError } from '../../core/errors.ts';
import type { Meter } from '../../core/metrics.ts';
import { span } from '../../core/spans.ts';
import type { Backend } from './backend.ts';

type Request = 'put' | 'get' | 'head' | 'list' | 'delete' | 'sweep';

/** @param backend what is behind it is the store itself: copies in tiers are no requests */
export function observed(backend: Backend, meter: Meter): Backend {
  const system = new URL(backend.url).protocol.replace(':', '');
  function told<Result>(request: Request, key: string, act: () => Promise<Result>): Promise<Result> {
    return span(`store ${request}`, { 'kybernate.store': system, 'kybernate.key': key }, () =>
      timed(meter, request, act),
    );
  }
  return {
    url: backend.url,
    async put(key, bytes, options) {
      await told('put', key, () => backend.put(key, bytes, options));
      meter.add('kybernate_store_bytes_total', { direction: 'up' }, bytes.length);
    },
    async putIfAbsent(key, bytes, options) {
      const isOurs = await told('put', key, () => backend.putIfAbsent(key, bytes, options));
      meter.add('kybernate_store_bytes_total', { direction: 'up' }, isOurs ? bytes.length : 0);
      return isOurs;
    },
    async get(key, options) {
      const bytes = await told('get', key, () => backend.get(key, options));
      meter.add('kybernate_store_bytes_total', { direction: 'down' }, bytes?.length ?? 0);
      return bytes;
    },
    head: (key, options) => told('head', key, () => backend.head(key, options)),
    async *list(prefix, options) {
      const begun = performance.now();
      let outcome = 'ok';
      try {
        yield* backend.list(prefix, options);
      } catch (error) {
        outcome = outcomeOf(error);
        throw error;
      } finally {
        // With the time that its reader took: pages come while it reads.
        meter.observe('kybernate_store_request_seconds', { request: 'list', outcome }, since(begun));
      }
    },
    delete: (key, options) => told('delete', key, () => backend.delete(key, options)),
    sweep: (olderThanMs, options) => told('sweep', '', () => backend.sweep(olderThanMs, options)),
    close: () => backend.close(),
  };
}

async function timed<Result>(meter: Meter, request: Request, act: () => Promise<Result>): Promise<Result> {
  const begun = performance.now();
  let outcome = 'ok';
  try {
    return await act();
  } catch (error) {
    outcome = outcomeOf(error);
    throw error;
  } finally {
    meter.observe('kybernate_store_request_seconds', { request, outcome }, since(begun));
  }
}

/** What was cancelled was nobody's failure. */
function outcomeOf(error: unknown): string {
  return isKybernateError(error) ? error.type : 'cancelled';
}

function since(begun: number): number {
  return (performance.now() - begun) / 1000;
}
