/*
 * What the store asks of the place where its objects lie. Two places fulfil it (local.ts, s3.ts); suite.ts checks every
 * sentence below against each of them.
 *
 * Keys    parts of lower case letters, digits, `.`, `_`, `-`, joined by `/`; no part begins with a dot.
 * Whole   an object is visible with all its bytes or not at all, also when the writer dies. Once `put` has returned,
 *         every later `get`, `head` and `list`, by anybody, sees it, and it survives a power failure.
 * Absent  `undefined` from `get` and `head` means: the place was asked and has no such object. A place that cannot be
 *         reached or refuses us never says "absent", it throws.
 * Retry   every call may be repeated after a lost reply. `put` of the same bytes and `delete` are idempotent.
 *         `putIfAbsent` may answer false because our own earlier try arrived: the caller compares the contents.
 * Errors  StorageUnavailable  it may work later: network, timeouts, 5xx. Thrown within about 15 s of silence.
 *         StorageDenied       it will not work until somebody changes something: credentials, permission, bucket.
 *         DiskFull            no room left (a directory).
 *         InvalidInput        a key against the rule above: a bug or an attack.
 * Cancel  when `signal` aborts, the call ends soon by throwing `signal.reason`; the object is then written or not.
 */
import { KybernateError } from '../../core/errors.ts';
import type { StoreKeys } from '../crypto/store-keys.ts';

export interface CallOptions {
  readonly signal?: AbortSignal;
}

export interface GetOptions extends CallOptions {
  readonly range?: ByteRange;
  /**
   * The bytes given before were damaged: every cache on the way drops its copy and lets the place behind it answer. A
   * place that keeps no copies ignores it.
   */
  readonly fresh?: boolean;
  /** Only the store itself answers: copies on the way are neither used nor touched. */
  readonly pastCopies?: boolean;
  /**
   * With a range: memory for the answer, which has at most the range's length. A place that fills it answers with its
   * beginning; one that has the bytes in memory of its own may give them instead.
   */
  readonly into?: Uint8Array;
}

/** `last` counts from the end of the object. */
export type ByteRange = { readonly offset: number; readonly bytes: number } | { readonly last: number };

export interface ObjectInfo {
  readonly key: string;
  readonly bytes: number;
  /** ms since 1970, by the clock of the place */
  readonly modifiedMs: number;
}

export interface Backend {
  /** where it is, for messages and results: `file:///dir`, `s3://bucket/prefix`; never with credentials */
  readonly url: string;
  /** what its callers seal and open with (`withKeys`); absent: what they write is plain. The place itself never looks */
  keys?: StoreKeys;
  /** Writes or replaces. The bytes must not change until it returns. */
  put(key: string, bytes: Uint8Array, options?: CallOptions): Promise<void>;
  /** Writes unless there is an object of that key; of several at once exactly one gets `true`. */
  putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<boolean>;
  /**
   * Reads the object, or `range` of it. A range that reaches beyond the object gives what there is of it, maybe nothing.
   */
  get(key: string, options?: GetOptions): Promise<Uint8Array | undefined>;
  head(key: string, options?: CallOptions): Promise<ObjectInfo | undefined>;
  /** All objects whose key begins with `prefix`, in the byte order of their keys, from the first key behind `after`. */
  list(prefix: string, options?: CallOptions & { readonly after?: string }): AsyncIterable<ObjectInfo>;
  /** Removes the object; no error when there is none. */
  delete(key: string, options?: CallOptions): Promise<void>;
  /**
   * Removes what writers that died left half-made (temporary files, multipart uploads) and what has not moved for
   * `olderThanMs`; it is not visible as objects but takes room.
   * @returns how many were removed
   */
  sweep(olderThanMs: number, options?: CallOptions): Promise<number>;
  /** Gives connections back. Calls after it fail. */
  close(): Promise<void>;
}

/** What is needed to read single objects. */
export type Reader = Pick<Backend, 'url' | 'get' | 'keys'>;

const KEY_PATTERN = /^[a-z0-9_-][a-z0-9._-]*(?:\/[a-z0-9_-][a-z0-9._-]*)*$/;

/** @throws InvalidInput for a key that could leave the directory, or that a place could fold together with another */
export function checkKey(key: string): string {
  if (!KEY_PATTERN.test(key) || key.length > 512) {
    throw new KybernateError('InvalidInput', `${JSON.stringify(key)} is not a key of the store`);
  }
  return key;
}
