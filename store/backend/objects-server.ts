/*
 * The objects of a store over HTTP, for one that has no keys of it; the other half is sidecar.ts.
 *
 *   GET    /objects/<key>            200 the object; `Range: bytes=a-b` or `bytes=-n`: 206, or 416 for nothing of it;
 *                                    `Cache-Control: no-cache` drops copies on the way, `no-store` passes them by
 *   HEAD   /objects/<key>            size in `content-length`, time in `kybernate-modified-ms`
 *   GET    /objects?prefix=&after=   200 ndjson: one `{ key, bytes, modifiedMs }` a line, `{ "end": true }` last
 *   PUT    /objects/<key>            204; with `If-None-Match: *` 201, or 412 when there is one
 *   DELETE /objects/<key>            204
 *   POST   /sweep?olderThanMs=       200 `{ "removed": n }`
 *
 * Errors carry their type in the header `kybernate-error`, so that HEAD has them too. "Absent" is 404 with the header
 * `kybernate-absent`: a 404 from anybody else never means it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type ErrorType, KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import type { Backend, ByteRange, GetOptions } from './backend.ts';

export interface ObjectsPolicy {
  /** May an object of this key be written or deleted from outside? The empty key asks for a sweep. */
  readonly mayWrite: (key: string) => boolean;
  readonly maxPutBytes: number;
}

/** Sent while the store has not answered, so that the client can tell a slow store from a dead server. */
const SIGN_OF_LIFE_MS = 3000;
/** Headers are limited to 16 KiB together. */
const MAX_ERROR_CHARS = 8000;

export const ERROR_HEADER = 'kybernate-error';
export const ABSENT_HEADER = 'kybernate-absent';
export const MODIFIED_HEADER = 'kybernate-modified-ms';

const STATUS: Partial<Record<ErrorType, number>> = {
  InvalidInput: 400,
  StorageDenied: 403,
  CheckpointNotFound: 404,
  DiskFull: 507,
  StorageUnavailable: 503,
};

/** Answers a request for objects; `false` and nothing done when its path is none of ours. Never throws. */
export async function serveObjects(
  backend: () => Promise<Backend>,
  policy: ObjectsPolicy,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  // Taken as it came: a URL that was tidied up would hide `..` from the check of the key.
  const [path = '', query = ''] = (request.url ?? '').split('?', 2);
  const isObject = path.startsWith('/objects/');
  if (!isObject && path !== '/objects' && path !== '/sweep') {
    return false;
  }
  const gone = new AbortController();
  response.once('close', () => gone.abort(new DOMException('the client went away', 'AbortError')));
  const alive = setInterval(() => {
    if (!response.headersSent) {
      response.writeProcessing();
    }
  }, SIGN_OF_LIFE_MS);
  try {
    const call = { policy, request, response, signal: gone.signal, backend: await backend() };
    await (isObject
      ? serveObject(call, path.slice('/objects/'.length))
      : serveAll(call, path, new URLSearchParams(query)));
  } catch (error) {
    sendError(response, error);
  } finally {
    clearInterval(alive);
  }
  return true;
}

interface Call {
  readonly backend: Backend;
  readonly policy: ObjectsPolicy;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly signal: AbortSignal;
}

async function serveObject(call: Call, key: string): Promise<void> {
  const { backend, request, response, signal, policy } = call;
  switch (request.method ?? '') {
    case 'GET':
      return sendObject(call, key);
    case 'HEAD': {
      const info = await backend.head(key, { signal });
      if (info === undefined) {
        return sendAbsent(response);
      }
      response.writeHead(200, { 'content-length': info.bytes, [MODIFIED_HEADER]: info.modifiedMs });
      response.end();
      return;
    }
    case 'PUT': {
      checkWrite(policy, key);
      const bytes = await bodyOf(request, policy.maxPutBytes);
      if (request.headers['if-none-match'] === '*') {
        response.writeHead((await backend.putIfAbsent(key, bytes, { signal })) ? 201 : 412);
      } else {
        await backend.put(key, bytes, { signal });
        response.writeHead(204);
      }
      response.end();
      return;
    }
    case 'DELETE':
      checkWrite(policy, key);
      await backend.delete(key, { signal });
      response.writeHead(204);
      response.end();
      return;
    default:
      throw new KybernateError('InvalidInput', `objects have no ${request.method}`);
  }
}

async function sendObject({ backend, request, response, signal }: Call, key: string): Promise<void> {
  const range = rangeOf(request.headers.range);
  const options: GetOptions = {
    signal,
    ...(range === undefined ? {} : { range }),
    ...(request.headers['cache-control'] === 'no-cache' ? { fresh: true } : {}),
    ...(request.headers['cache-control'] === 'no-store' ? { pastCopies: true } : {}),
  };
  const bytes = await backend.get(key, options);
  if (bytes === undefined) {
    return sendAbsent(response);
  }
  const status = range === undefined ? 200 : bytes.length === 0 ? 416 : 206;
  response.writeHead(status, { 'content-type': 'application/octet-stream', 'content-length': bytes.length });
  response.end(bytes);
}

async function serveAll(call: Call, path: string, query: URLSearchParams): Promise<void> {
  const { backend, policy, request, response, signal } = call;
  if (path === '/sweep' && request.method === 'POST') {
    checkWrite(policy, '');
    const removed = await backend.sweep(Number(query.get('olderThanMs')), { signal });
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ removed }));
    return;
  }
  if (path !== '/objects' || request.method !== 'GET') {
    throw new KybernateError('InvalidInput', `objects have no ${request.method} ${path}`);
  }
  const after = query.get('after');
  const options = { signal, ...(after === null ? {} : { after }) };
  let page: string[] = [];
  for await (const info of backend.list(query.get('prefix') ?? '', options)) {
    page.push(`${JSON.stringify(info)}\n`);
    if (page.length === 500) {
      await write(response, page.join(''), signal);
      page = [];
    }
  }
  await write(response, `${page.join('')}{"end":true}\n`, signal);
  response.end();
}

/** The status goes out with the first line: until then a failure can still be told by it. */
async function write(response: ServerResponse, text: string, signal: AbortSignal): Promise<void> {
  if (!response.headersSent) {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  }
  if (!response.write(text)) {
    await new Promise<void>((resolve) => {
      response.once('drain', resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
    signal.throwIfAborted();
  }
}

function checkWrite(policy: ObjectsPolicy, key: string): void {
  if (!policy.mayWrite(key)) {
    const what = key === '' ? 'a sweep' : JSON.stringify(key);
    throw new KybernateError('StorageDenied', `${what} is not for writers outside the sidecar: only leases are`);
  }
}

function rangeOf(header: string | undefined): ByteRange | undefined {
  if (header === undefined) {
    return undefined;
  }
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(header) ?? [];
  if (first === '' && last !== '') {
    return { last: Number(last) };
  }
  if (first === '' || (last !== '' && Number(last) < Number(first))) {
    throw new KybernateError('InvalidInput', `the range ${JSON.stringify(header)} is none`);
  }
  const offset = Number(first);
  return { offset, bytes: last === '' ? Number.MAX_SAFE_INTEGER - offset : Number(last) - offset + 1 };
}

async function bodyOf(request: IncomingMessage, maxBytes: number): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > maxBytes) {
      throw new KybernateError('InvalidInput', `the object is longer than ${maxBytes} bytes`);
    }
    parts.push(part);
  }
  const expected = request.headers['content-length'];
  if (expected !== undefined && Number(expected) !== bytes) {
    throw new KybernateError('InvalidInput', `${bytes} of ${expected} bytes arrived; nothing was written`);
  }
  return Buffer.concat(parts);
}

function sendAbsent(response: ServerResponse): void {
  response.writeHead(404, { [ABSENT_HEADER]: '1', 'content-length': 0 });
  response.end();
}

/** A list that was begun is cut off: without its last line it is not whole. */
function sendError(response: ServerResponse, error: unknown): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const known = isKybernateError(error) ? error : new KybernateError('Internal', messageOf(error));
  const { type, message, details } = known;
  const whole = encodeURIComponent(JSON.stringify({ type, message, details }));
  const header =
    whole.length <= MAX_ERROR_CHARS
      ? whole
      : encodeURIComponent(JSON.stringify({ type, message: message.slice(0, 800) }));
  const body = JSON.stringify({ error: { type, message, details } });
  response.writeHead(STATUS[type] ?? 500, {
    'content-type': 'application/json',
    [ERROR_HEADER]: header,
    // What is left of a refused body is not read.
    connection: 'close',
  });
  response.end(body);
}
