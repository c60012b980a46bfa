import type { Backend } from '../backend/backend.ts';
import { checkKey } from '../backend/backend.ts';
import { readOnly } from '../backend/read-only.ts';
import type { Tier } from './tier.ts';
import { kindOf } from './units.ts';

/** What lies in the tiers and nothing else, read-only: what a node serves to its peers. Closing it does nothing. */
export function residentBackend(tiers: readonly Tier[]): Backend {
  const having = (key: string): Tier[] =>
    kindOf(checkKey(key)) === undefined ? [] : tiers.filter((tier) => tier.bytesOf(key) !== undefined);
  return readOnly({
    url: `tiers:${tiers.map(({ name }) => name).join('+')}`,
    async get(key, options) {
      options?.signal?.throwIfAborted();
      for (const tier of having(key)) {
        const bytes = await tier.read(key, options);
        if (bytes !== undefined) {
          return bytes;
        }
      }
      return undefined;
    },
    head(key) {
      const bytes = having(key)[0]?.bytesOf(key);
      return Promise.resolve(bytes === undefined ? undefined : { key, bytes, modifiedMs: 0 });
    },
    close: () => Promise.resolve(),
  });
}
