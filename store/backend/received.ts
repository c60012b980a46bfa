/*
 * What arrives at a socket lies in a new buffer of up to 64 KiB a read, outside of the heap, where the collector sees
 * little reason to come: left alone, a hundred MiB pile up during a transfer.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Collecting the young ones takes about a millisecond. */
const COLLECT_EVERY_BYTES = 16 * 2 ** 20;

let collect: (() => void) | undefined;
let received = 0;

/** To be told of bytes that were taken out of a socket's buffers; now and then it has those collected. */
export function noteReceived(bytes: number): void {
  received += bytes;
  if (received >= COLLECT_EVERY_BYTES) {
    received = 0;
    collect ??= minorCollector();
    collect();
  }
}

function minorCollector(): () => void {
  // The function exists only in contexts that are made while the flag is set.
  setFlagsFromString('--expose-gc');
  const collector: unknown = runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  return typeof collector === 'function' ? () => void collector({ type: 'minor' }) : () => undefined;
}

/** Memory for an answer of a known length: the caller's when it is large enough. */
export function memoryOf(bytes: number, into: Uint8Array | undefined): Uint8Array {
  return into !== undefined && into.length >= bytes ? into.subarray(0, bytes) : new Uint8Array(bytes);
}
