/* A place that is only read: its `Backend` refuses every write, as a store does with keys that may only read. */
import { KybernateError } from '../../core/errors.ts';
import type { Backend, CallOptions, GetOptions, ObjectInfo } from './backend.ts';

export interface Readable {
  readonly url: string;
  get(key: string, options?: GetOptions): Promise<Uint8Array | undefined>;
  head(key: string, options?: CallOptions): Promise<ObjectInfo | undefined>;
  close(): Promise<void>;
}

/** Its `list` is refused too: these places know single objects only. */
export function readOnly(place: Readable): Backend {
  const refuse = (what: string) => (): Promise<never> => Promise.reject(refusal(place.url, what));
  return {
    url: place.url,
    get: (key, options) => place.get(key, options),
    head: (key, options) => place.head(key, options),
    put: refuse('put'),
    putIfAbsent: refuse('putIfAbsent'),
    delete: refuse('delete'),
    sweep: refuse('sweep'),
    list: () => {
      throw refusal(place.url, 'list');
    },
    close: () => place.close(),
  };
}

function refusal(url: string, what: string): KybernateError {
  return new KybernateError('StorageDenied', `${url} may only be read: it refuses ${what}; nothing was changed`);
}
