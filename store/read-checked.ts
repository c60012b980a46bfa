import { isKybernateError } from '../core/errors.ts';
import type { Reader } from './backend/backend.ts';

/**
 * Runs a read that checks what it gets. What is damaged is read once more, past every cache on the way: a bit that
 * flipped in a tier of the node heals from the store.
 * @throws what the second read throws
 */
export async function readChecked<Result>(backend: Reader, read: (from: Reader) => Promise<Result>): Promise<Result> {
  try {
    return await read(backend);
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    const { url, keys } = backend;
    const get: Reader['get'] = (key, options) => backend.get(key, { ...options, fresh: true });
    return read({ url, get, ...(keys === undefined ? {} : { keys }) });
  }
}
