/* A backend whose calls a test can watch, fail and delay. */
import type { Backend } from '../../store/backend/backend.ts';

export interface BackendCall {
  readonly name: 'put' | 'putIfAbsent' | 'get' | 'head' | 'list' | 'delete' | 'sweep';
  readonly key: string;
  /** of a put */
  readonly bytes: number;
}

export interface Watched extends Backend {
  readonly calls: BackendCall[];
}

/**
 * @param around runs instead of each call but `list` and gets the call itself: throw before it, after it, or wait
 */
export function watch(
  backend: Backend,
  around: (call: BackendCall, proceed: () => Promise<unknown>) => Promise<unknown> = (_, proceed) => proceed(),
): Watched {
  const calls: BackendCall[] = [];
  async function pass<Result>(
    name: BackendCall['name'],
    key: string,
    bytes: number,
    proceed: () => Promise<Result>,
  ): Promise<Result> {
    const call = { name, key, bytes };
    calls.push(call);
    let result: { value: Result } | undefined;
    await around(call, async () => {
      result = { value: await proceed() };
    });
    if (result === undefined) {
      throw new Error('the wrapper neither went on nor threw');
    }
    return result.value;
  }
  return {
    calls,
    url: backend.url,
    ...(backend.keys === undefined ? {} : { keys: backend.keys }),
    put: (key, bytes, options) => pass('put', key, bytes.length, () => backend.put(key, bytes, options)),
    putIfAbsent: (key, bytes, options) =>
      pass('putIfAbsent', key, bytes.length, () => backend.putIfAbsent(key, bytes, options)),
    get: (key, options) => pass('get', key, 0, () => backend.get(key, options)),
    head: (key, options) => pass('head', key, 0, () => backend.head(key, options)),
    list: (prefix, options) => {
      calls.push({ name: 'list', key: prefix, bytes: 0 });
      return backend.list(prefix, options);
    },
    delete: (key, options) => pass('delete', key, 0, () => backend.delete(key, options)),
    sweep: (olderThanMs, options) => pass('sweep', '', 0, () => backend.sweep(olderThanMs, options)),
    close: () => backend.close(),
  };
}
