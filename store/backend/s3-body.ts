import { Readable } from 'node:stream';
import { memoryOf, noteReceived } from './received.ts';

/** Of the SDK's answer to a read. */
interface Answer {
  readonly Body?: { transformToByteArray(): Promise<Uint8Array> } | undefined;
  readonly ContentRange?: string | undefined;
  readonly ContentLength?: number | undefined;
}

/**
 * Into memory of the right size: the SDK's own way keeps the pieces until it has all of them. The answer says twice how
 * long it is; a proxy that cut it off may have changed one of them.
 * @param into where it goes when it fits
 */
export async function readBody(
  { Body, ContentRange, ContentLength }: Answer,
  into: Uint8Array | undefined,
): Promise<Uint8Array> {
  const [, first, last] = /^bytes (\d+)-(\d+)\//.exec(ContentRange ?? '') ?? [];
  const expected = first === undefined ? ContentLength : Number(last) - Number(first) + 1;
  if (!(Body instanceof Readable) || expected === undefined) {
    return (await Body?.transformToByteArray()) ?? new Uint8Array();
  }
  const bytes = memoryOf(expected, into);
  let used = 0;
  for await (const piece of Body) {
    if (piece instanceof Uint8Array && used + piece.length <= expected) {
      bytes.set(piece, used);
      used += piece.length;
      noteReceived(piece.length);
    } else {
      throw new Error(`the answer has more than ${expected} bytes`);
    }
  }
  if (used !== expected) {
    throw new Error(`the answer has ${used} bytes instead of ${expected}`);
  }
  return bytes;
}
