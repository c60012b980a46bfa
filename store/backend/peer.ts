/*
 * What another node has in its tiers, over HTTP with a shared token; objects-server.ts shows the calls, peer-server.ts
 * is the other half. Nothing that comes from there is trusted: readers check every chunk. A peer answers fast or is of
 * no use, so silence is short here.
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { KybernateError, messageOf } from '../../core/errors.ts';
import {
  checkKey,
  type Backend,
  type ByteRange,
  type CallOptions,
  type GetOptions,
  type ObjectInfo,
} from './backend.ts';
import { ABSENT_HEADER, MODIFIED_HEADER } from './objects-server.ts';
import { readOnly } from './read-only.ts';

const SILENCE_MS = 5000;
const SOCKETS = 8;

export interface PeerSettings {
  readonly node: string;
  /** `http://host:port` or `https://host:port` */
  readonly url: string;
  /** the same on all nodes */
  readonly token: string;
}

/** Opens without asking the peer. Its errors: StorageDenied for a wrong token, else StorageUnavailable. */
export function openPeerBackend(settings: PeerSettings): Backend {
  const peer = new Peer(settings);
  return readOnly({
    url: peer.url,
    get: (key, options) => peer.get(key, options),
    head: (key, options) => peer.head(key, options),
    close: () => peer.close(),
  });
}

interface Wish {
  readonly signal: AbortSignal | undefined;
  readonly range?: ByteRange | undefined;
}

class Peer {
  readonly url: string;
  readonly #node: string;
  readonly #token: string;
  readonly #agent: HttpAgent;

  constructor({ node, url, token }: PeerSettings) {
    this.url = url.replace(/\/+$/, '');
    this.#node = node;
    this.#token = token;
    const options = { keepAlive: true, maxSockets: SOCKETS };
    this.#agent = url.startsWith('https:') ? new HttpsAgent(options) : new HttpAgent(options);
  }

  async get(key: string, { range, signal }: GetOptions = {}): Promise<Uint8Array | undefined> {
    if (range !== undefined && ('last' in range ? range.last : range.bytes) === 0) {
      return (await this.head(key, signal === undefined ? {} : { signal })) === undefined
        ? undefined
        : new Uint8Array();
    }
    return this.#call('GET', key, { signal, range }, async (answer) => {
      const bytes = await bytesOf(answer);
      return answer.statusCode === 416 ? new Uint8Array() : bytes;
    });
  }

  head(key: string, { signal }: CallOptions = {}): Promise<ObjectInfo | undefined> {
    return this.#call('HEAD', key, { signal }, (answer) => {
      answer.resume();
      const { [MODIFIED_HEADER]: modified, 'content-length': bytes } = answer.headers;
      return Promise.resolve({ key, bytes: Number(bytes), modifiedMs: Number(modified) });
    });
  }

  close(): Promise<void> {
    this.#agent.destroy();
    return Promise.resolve();
  }

  async #call<Result>(
    method: string,
    key: string,
    { signal, range }: Wish,
    take: (answer: IncomingMessage) => Promise<Result>,
  ): Promise<Result | undefined> {
    signal?.throwIfAborted();
    const path = `/objects/${checkKey(key)}`;
    try {
      const answer = await this.#answerTo(method, path, { signal, range });
      const status = answer.statusCode ?? 0;
      if (status === 404 && answer.headers[ABSENT_HEADER] === '1') {
        answer.resume();
        return undefined;
      }
      if (![200, 206, 416].includes(status)) {
        answer.destroy();
        const type = status === 401 || status === 403 ? 'StorageDenied' : 'StorageUnavailable';
        throw new KybernateError(type, `${this.#where()} answered ${method} ${path} with ${status}`);
      }
      return await take(answer);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof KybernateError) {
        throw error;
      }
      throw new KybernateError('StorageUnavailable', `${this.#where()} does not answer: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  #answerTo(method: string, path: string, { signal, range }: Wish): Promise<IncomingMessage> {
    const request = this.url.startsWith('https:') ? httpsRequest : httpRequest;
    const headers = {
      authorization: `Bearer ${this.#token}`,
      ...(range === undefined ? {} : { range: rangeHeader(range) }),
    };
    return new Promise((resolve, reject) => {
      const call = request(`${this.url}${path}`, {
        method,
        headers,
        agent: this.#agent,
        timeout: SILENCE_MS,
        ...(signal === undefined ? {} : { signal }),
      });
      call.on('timeout', () => call.destroy(new Error(`silent for ${SILENCE_MS} ms`)));
      call.once('response', resolve);
      call.once('error', reject);
      call.end();
    });
  }

  #where(): string {
    return `the peer ${this.#node} (${this.url})`;
  }
}

function rangeHeader(range: ByteRange): string {
  return 'last' in range ? `bytes=-${range.last}` : `bytes=${range.offset}-${range.offset + range.bytes - 1}`;
}

/** The whole body; a connection that was cut is an error, never a shorter object. */
async function bytesOf(answer: IncomingMessage): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  for await (const part of answer as AsyncIterable<Buffer>) {
    parts.push(part);
  }
  const whole = Buffer.concat(parts);
  const expected = Number(answer.headers['content-length'] ?? whole.length);
  if (whole.length !== expected) {
    throw new Error(`the answer ended after ${whole.length} of ${expected} bytes`);
  }
  return new Uint8Array(whole.buffer, whole.byteOffset, whole.length);
}
