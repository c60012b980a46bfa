/* An HTTP proxy in front of a real S3 server that counts requests and spoils those that a script names. */
import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Backend } from '../../store/backend/backend.ts';
import { openS3Backend } from '../../store/backend/s3.ts';
import { CREDENTIALS } from './versitygw.ts';

export type Fault =
  /** answered with this status and S3's error code, the server is not asked */
  | { readonly kind: 'answer'; readonly status: number; readonly code: string }
  /** the connection is closed when so many bytes of the request's body have come; the server sees no end of it */
  | { readonly kind: 'cut request'; readonly afterBytes: number }
  /** the server does what it is asked, and its answer never leaves the proxy */
  | { readonly kind: 'lose answer' }
  /** the connection is closed behind so many bytes of the answer's body */
  | { readonly kind: 'cut answer'; readonly afterBytes: number }
  /** nothing comes any more behind so many bytes of the answer's body */
  | { readonly kind: 'stall'; readonly afterBytes: number }
  /** the answer comes in pieces, with pauses */
  | { readonly kind: 'slow'; readonly pieceBytes: number; readonly pauseMs: number }
  /** one bit of the answer's body is another, checksums of the server are taken away */
  | { readonly kind: 'wrong byte'; readonly at: number }
  /** the answer's body is shorter, and its Content-Length says so */
  | { readonly kind: 'shorten'; readonly bytes: number };

export interface Rule {
  readonly method: string;
  /** begin of the key in the bucket; `?` for requests on the bucket itself */
  readonly key: string;
  readonly fault: Fault;
  /** how many requests it spoils, from the first; all of them otherwise */
  readonly times?: number;
}

export interface SeenRequest {
  readonly method: string;
  readonly key: string;
}

export class S3Proxy {
  readonly requests: SeenRequest[] = [];
  readonly #server: Server;
  readonly #to: number;
  #rules: Array<{ readonly rule: Rule; left: number }> = [];
  /** requests that a rule has met */
  spoiled = 0;

  private constructor(to: number) {
    this.#to = to;
    this.#server = createServer((incoming, outgoing) => this.#handle(incoming, outgoing));
  }

  /** @param to port of the server on 127.0.0.1 */
  static async start(to: number): Promise<S3Proxy> {
    const proxy = new S3Proxy(to);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get endpoint(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  }

  /** A store behind the proxy, whose client waits as long as it does outside of tests. */
  openPatient(bucket = 'bucket'): Backend {
    return openS3Backend(bucket, '', { endpoint: this.endpoint, credentials: CREDENTIALS });
  }

  /** A store behind the proxy, whose client asks as often, and waits less. */
  open(bucket = 'bucket'): Backend {
    const impatience = { idleTimeoutMs: 1500, retryPauseMs: 4 };
    return openS3Backend(bucket, '', { endpoint: this.endpoint, credentials: CREDENTIALS, ...impatience });
  }

  /** From now on these rules hold; of several the first that fits. */
  script(...rules: readonly Rule[]): void {
    this.#rules = rules.map((rule) => ({ rule, left: rule.times ?? Number.POSITIVE_INFINITY }));
    this.spoiled = 0;
    this.requests.length = 0;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #handle(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const { method = '', url = '' } = incoming;
    const key = /^\/[^/?]+\/([^?]+)/.exec(url)?.[1] ?? '?';
    this.requests.push({ method, key });
    const found = this.#rules.find(({ rule, left }) => left > 0 && rule.method === method && key.startsWith(rule.key));
    if (found !== undefined) {
      found.left -= 1;
      this.spoiled += 1;
    }
    const fault = found?.rule.fault;
    if (fault?.kind === 'answer') {
      incoming.resume();
      incoming.once('end', () => refuse(outgoing, method, fault));
      return;
    }
    const headers = incoming.headers;
    const forward = request({ host: '127.0.0.1', port: this.#to, method, path: url, headers }, (answer) =>
      reply(answer, outgoing, fault),
    );
    forward.on('error', () => outgoing.destroy());
    incoming.on('error', () => forward.destroy());
    if (fault?.kind === 'cut request') {
      let passed = 0;
      incoming.on('data', (piece: Buffer) => {
        passed += piece.length;
        if (passed >= fault.afterBytes) {
          incoming.destroy();
          forward.destroy();
        } else {
          forward.write(piece);
        }
      });
      return;
    }
    incoming.pipe(forward);
  }
}

function refuse(outgoing: ServerResponse, method: string, { status, code }: Extract<Fault, { kind: 'answer' }>): void {
  outgoing.writeHead(status, { 'content-type': 'application/xml' });
  const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>by the test</Message></Error>`;
  outgoing.end(method === 'HEAD' ? '' : body);
}

function reply(answer: IncomingMessage, outgoing: ServerResponse, fault: Fault | undefined): void {
  const { statusCode = 500, headers } = answer;
  if (fault === undefined) {
    outgoing.writeHead(statusCode, headers);
    answer.pipe(outgoing);
    return;
  }
  const pieces: Buffer[] = [];
  answer.on('data', (piece: Buffer) => pieces.push(piece));
  answer.on('end', () => void spoil(Buffer.concat(pieces), statusCode, headers, outgoing, fault));
}

async function spoil(
  body: Buffer,
  status: number,
  headers: IncomingMessage['headers'],
  outgoing: ServerResponse,
  fault: Fault,
): Promise<void> {
  const withoutSums = Object.entries(headers).filter(([name]) => !name.startsWith('x-amz-checksum-'));
  switch (fault.kind) {
    case 'lose answer':
      outgoing.destroy();
      return;
    case 'cut answer':
    case 'stall':
      outgoing.writeHead(status, headers);
      outgoing.write(body.subarray(0, fault.afterBytes));
      if (fault.kind === 'cut answer') {
        setTimeout(() => outgoing.destroy(), 20);
      }
      return;
    case 'slow':
      outgoing.writeHead(status, headers);
      for (let at = 0; at < body.length; at += fault.pieceBytes) {
        outgoing.write(body.subarray(at, at + fault.pieceBytes));
        await new Promise((resolve) => setTimeout(resolve, fault.pauseMs));
      }
      outgoing.end();
      return;
    case 'wrong byte': {
      const at = Math.min(fault.at, body.length - 1);
      body[at] = (body[at] ?? 0) ^ 0x10;
      outgoing.writeHead(status, Object.fromEntries(withoutSums));
      outgoing.end(body);
      return;
    }
    case 'shorten': {
      const shorter = body.subarray(0, Math.max(0, body.length - fault.bytes));
      const length = { 'content-length': String(shorter.length) };
      outgoing.writeHead(status, { ...Object.fromEntries(withoutSums), ...length });
      outgoing.end(shorter);
      return;
    }
    case 'answer':
    case 'cut request':
      // The request never came to the server.
      outgoing.destroy();
  }
}
