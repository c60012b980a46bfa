/*
 * The store as root sees it: through the socket of the sidecar, which alone has the keys. Nothing that comes from there
 * is trusted; readers check every chunk. objects-server.ts is the other half and shows the calls.
 */
import {
  Agent,
  request as httpRequest,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type RequestOptions,
} from 'node:http';
import { createInterface } from 'node:readline';
import * as z from 'zod';
import { isErrorType, KybernateError, messageOf } from '../../core/errors.ts';
import { traceparent } from '../../core/spans.ts';
import { errnoOf } from '../files.ts';
import {
  checkKey,
  type Backend,
  type ByteRange,
  type CallOptions,
  type GetOptions,
  type ObjectInfo,
} from './backend.ts';
import { ABSENT_HEADER, ERROR_HEADER, MODIFIED_HEADER } from './objects-server.ts';
import { memoryOf, noteReceived } from './received.ts';

/** A live sidecar says something every 3 s, whatever the store does. */
const SILENCE_MS = 15_000;
const SOCKETS = 16;

const health = z.object({ store: z.string() });
const listLine = z.union([
  z.object({ key: z.string(), bytes: z.number(), modifiedMs: z.number() }),
  z.object({ end: z.literal(true) }),
]);

/**
 * Asks the sidecar of this node which store it serves.
 * @param node for messages
 * @throws StorageUnavailable no sidecar answers; StorageDenied its socket is another user's
 */
export async function openSidecarBackend(
  socketPath: string,
  node: string,
  options: CallOptions = {},
): Promise<Backend> {
  const line = new Line(socketPath, node);
  try {
    const answer = await line.call({ method: 'GET', path: '/v1/health' }, undefined, options.signal);
    const { store } = health.parse(JSON.parse(Buffer.from(await bytesOf(answer, line)).toString('utf8')));
    return new SidecarBackend(line, store);
  } catch (error) {
    line.close();
    throw error;
  }
}

class SidecarBackend implements Backend {
  readonly url: string;
  readonly #line: Line;

  constructor(line: Line, url: string) {
    this.#line = line;
    this.url = url;
  }

  async put(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<void> {
    await this.#send({ method: 'PUT', path: pathOf(key, signal), headers: lengthOf(bytes) }, bytes, signal);
  }

  async putIfAbsent(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    const headers = { ...lengthOf(bytes), 'if-none-match': '*' };
    return (await this.#send({ method: 'PUT', path: pathOf(key, signal), headers }, bytes, signal)) === 201;
  }

  async get(key: string, { range, fresh, pastCopies, signal, into }: GetOptions = {}): Promise<Uint8Array | undefined> {
    const path = pathOf(key, signal);
    if (range !== undefined && ('last' in range ? range.last : range.bytes) === 0) {
      return (await this.head(key, signal === undefined ? {} : { signal })) === undefined
        ? undefined
        : new Uint8Array();
    }
    const headers = {
      ...(range === undefined ? {} : { range: rangeHeader(range) }),
      ...(pastCopies === true
        ? { 'cache-control': 'no-store' }
        : fresh === true
          ? { 'cache-control': 'no-cache' }
          : {}),
    };
    const answer = await this.#line.call({ method: 'GET', path, headers }, undefined, signal);
    if (isAbsent(answer)) {
      return undefined;
    }
    return this.#line.guard(signal, () => bytesOf(answer, this.#line, into));
  }

  async head(key: string, { signal }: CallOptions = {}): Promise<ObjectInfo | undefined> {
    const answer = await this.#line.call({ method: 'HEAD', path: pathOf(key, signal) }, undefined, signal);
    answer.resume();
    if (isAbsent(answer)) {
      return undefined;
    }
    const modifiedMs = Number(answer.headers[MODIFIED_HEADER]);
    return { key, bytes: Number(answer.headers['content-length']), modifiedMs };
  }

  async *list(prefix: string, options: CallOptions & { readonly after?: string } = {}): AsyncGenerator<ObjectInfo> {
    const { signal, after } = options;
    signal?.throwIfAborted();
    const query = new URLSearchParams({ prefix, ...(after === undefined ? {} : { after }) });
    const answer = await this.#line.call({ method: 'GET', path: `/objects?${query.toString()}` }, undefined, signal);
    const lines = createInterface({ input: answer })[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await this.#line.guard(signal, () => lines.next());
        const line = next.done === true ? undefined : listLine.parse(JSON.parse(next.value));
        if (line === undefined) {
          throw this.#line.unavailable(`its list of ${prefix} was cut off`);
        }
        if ('end' in line) {
          return;
        }
        yield line;
      }
    } finally {
      answer.destroy();
    }
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    await this.#send({ method: 'DELETE', path: pathOf(key, signal) }, undefined, signal);
  }

  async sweep(olderThanMs: number, { signal }: CallOptions = {}): Promise<number> {
    signal?.throwIfAborted();
    const path = `/sweep?olderThanMs=${olderThanMs}`;
    const answer = await this.#line.call({ method: 'POST', path }, undefined, signal);
    const text = Buffer.from(await bytesOf(answer, this.#line)).toString('utf8');
    return z.object({ removed: z.number() }).parse(JSON.parse(text)).removed;
  }

  async close(): Promise<void> {
    this.#line.close();
  }

  /** @returns the status; nothing else of the answer counts */
  async #send(options: Ask, body: Uint8Array | undefined, signal: AbortSignal | undefined): Promise<number> {
    const answer = await this.#line.call(options, body, signal);
    answer.resume();
    return answer.statusCode ?? 0;
  }
}

interface Ask extends Pick<RequestOptions, 'method' | 'path'> {
  readonly headers?: OutgoingHttpHeaders;
}

/** The connections to one socket. */
class Line {
  readonly #socketPath: string;
  readonly #node: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: SOCKETS });
  #closed = false;

  constructor(socketPath: string, node: string) {
    this.#socketPath = socketPath;
    this.#node = node;
  }

  close(): void {
    this.#closed = true;
    this.#agent.destroy();
  }

  unavailable(why: string, cause?: unknown): KybernateError {
    return new KybernateError(
      'StorageUnavailable',
      `no sidecar serves node ${this.#node}: start \`kybernate sidecar\` (${this.#socketPath}: ${why})`,
      { cause },
    );
  }

  /** @throws what the sidecar reports; StorageUnavailable, StorageDenied; the reason of the signal */
  async call(options: Ask, body: Uint8Array | undefined, signal: AbortSignal | undefined): Promise<IncomingMessage> {
    signal?.throwIfAborted();
    if (this.#closed) {
      throw new KybernateError('StorageUnavailable', 'the connection to the sidecar is closed');
    }
    const answer = await this.guard(signal, () => this.#answerTo(options, body, signal, true));
    const failed = answer.headers[ERROR_HEADER];
    if (typeof failed === 'string') {
      answer.destroy();
      throw errorOf(failed);
    }
    const status = answer.statusCode ?? 0;
    if (status >= 400 && ![412, 416].includes(status) && !isAbsent(answer)) {
      answer.destroy();
      throw this.unavailable(`${options.method} ${options.path} was answered with ${status}`);
    }
    return answer;
  }

  /** What breaks a connection becomes an error of ours. */
  async guard<Result>(signal: AbortSignal | undefined, act: () => Promise<Result>): Promise<Result> {
    try {
      return await act();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof KybernateError) {
        throw error;
      }
      if (errnoOf(error) === 'EACCES' || errnoOf(error) === 'EPERM') {
        throw new KybernateError('StorageDenied', `the sidecar's socket ${this.#socketPath} is for root and its user`, {
          cause: error,
        });
      }
      throw this.unavailable(errnoOf(error) ?? messageOf(error), error);
    }
  }

  #answerTo(
    options: Ask,
    body: Uint8Array | undefined,
    signal: AbortSignal | undefined,
    mayRepeat: boolean,
  ): Promise<IncomingMessage> {
    const parent = traceparent();
    return new Promise((resolve, reject) => {
      const call = httpRequest({
        ...options,
        ...(parent === undefined ? {} : { headers: { ...options.headers, traceparent: parent } }),
        socketPath: this.#socketPath,
        agent: this.#agent,
        timeout: SILENCE_MS,
        ...(signal === undefined ? {} : { signal }),
      });
      call.on('timeout', () => call.destroy(new Error(`silent for ${SILENCE_MS} ms`)));
      call.once('response', resolve);
      call.once('error', (error) => {
        // A connection that the last sidecar closed while nobody used it: the next one gets a new connection.
        const stale = call.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(errnoOf(error) ?? '');
        if (stale && mayRepeat && signal?.aborted !== true) {
          this.#answerTo(options, body, signal, false).then(resolve, reject);
        } else {
          reject(error);
        }
      });
      call.end(body);
    });
  }
}

function isAbsent(answer: IncomingMessage): boolean {
  return answer.statusCode === 404 && answer.headers[ABSENT_HEADER] === '1';
}

function errorOf(header: string): KybernateError {
  const parsed = z
    .object({ type: z.string(), message: z.string(), details: z.record(z.string(), z.unknown()).optional() })
    .safeParse(JSON.parse(decodeURIComponent(header)));
  if (!parsed.success || !isErrorType(parsed.data.type)) {
    return new KybernateError('Internal', `the sidecar reported an error that is none: ${header.slice(0, 200)}`);
  }
  const { type, message, details } = parsed.data;
  return new KybernateError(type, message, details === undefined ? {} : { details });
}

/** The whole body; a connection that was cut is an error, never a shorter object. */
async function bytesOf(answer: IncomingMessage, line: Line, into?: Uint8Array): Promise<Uint8Array> {
  const length = Number(answer.headers['content-length'] ?? Number.NaN);
  const whole = Number.isInteger(length) ? memoryOf(length, into) : undefined;
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of answer as AsyncIterable<Buffer>) {
    if (whole === undefined) {
      parts.push(part);
    } else {
      whole.set(part, bytes);
    }
    bytes += part.length;
    noteReceived(part.length);
  }
  if (whole !== undefined && bytes !== length) {
    throw line.unavailable(`the answer ended after ${bytes} of ${length} bytes`);
  }
  return whole ?? Buffer.concat(parts);
}

function pathOf(key: string, signal: AbortSignal | undefined): string {
  signal?.throwIfAborted();
  return `/objects/${checkKey(key)}`;
}

function lengthOf(bytes: Uint8Array): { 'content-length': number } {
  return { 'content-length': bytes.length };
}

function rangeHeader(range: ByteRange): string {
  return 'last' in range ? `bytes=-${range.last}` : `bytes=${range.offset}-${range.offset + range.bytes - 1}`;
}
