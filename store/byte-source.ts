/* Reads a stream of bytes in pieces of the lengths that a format asks for. */
import { KybernateError } from '../core/errors.ts';

export class ByteSource {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();
  #position = 0;

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#pieces = stream[Symbol.asyncIterator]();
  }

  /** bytes that were given out */
  get position(): number {
    return this.#position;
  }

  /** @throws CheckpointCorrupt when the stream ends before; the caller bounds `bytes` */
  async read(bytes: number): Promise<Uint8Array> {
    const first = await this.readSome(bytes);
    if (first.length === bytes) {
      return first;
    }
    const parts = [first];
    for (let got = first.length; got < bytes;) {
      const part = await this.readSome(bytes - got);
      if (part.length === 0) {
        throw new KybernateError('CheckpointCorrupt', `the archive ends after ${this.#position} bytes: it is cut off`);
      }
      parts.push(part);
      got += part.length;
    }
    return Buffer.concat(parts);
  }

  /** At most `max` bytes, at least one unless the stream is at its end. Valid as long as the stream's own pieces are. */
  async readSome(max: number): Promise<Uint8Array> {
    if (max === 0) {
      return new Uint8Array();
    }
    while (this.#rest.length === 0) {
      const next = await this.#pieces.next();
      if (next.done === true) {
        return new Uint8Array();
      }
      this.#rest = next.value;
    }
    const given = this.#rest.subarray(0, max);
    this.#rest = this.#rest.subarray(given.length);
    this.#position += given.length;
    return given;
  }

  /** Looks at what comes next; less at the end of the stream. */
  async peek(bytes: number): Promise<Uint8Array> {
    while (this.#rest.length < bytes) {
      const next = await this.#pieces.next();
      if (next.done === true) {
        break;
      }
      this.#rest = Buffer.concat([this.#rest, next.value]);
    }
    return this.#rest.subarray(0, bytes);
  }

  /** The rest of the stream. */
  async *remaining(): AsyncGenerator<Uint8Array> {
    for (let piece = await this.readSome(2 ** 20); piece.length > 0; piece = await this.readSome(2 ** 20)) {
      yield piece;
    }
  }

  /** Lets the stream go before its end. */
  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}
