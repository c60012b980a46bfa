/* JSON over HTTP on the unix sockets of this node: the agent's and the sidecar's. */
import { isUtf8 } from 'node:buffer';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError, messageOf } from '../core/errors.ts';

const MAX_BODY_BYTES = 256 * 1024;
/** What is too long is read on and dropped, so that its sender comes to read why; whoever sends more is cut off. */
const MAX_DROPPED_BYTES = 64 * 1024 * 1024;
/** At most five lines a second for one that follows. */
const LINE_PAUSE_MS = 200;

/** @throws InvalidInput the body is longer than 256 KiB, ends early, or is no JSON that can stand for what it says */
export async function readJsonBody(request: IncomingMessage): Promise<unknown> {
  const body = await readBody(request);
  if (!isUtf8(body)) {
    throw new KybernateError('InvalidInput', 'the body is not UTF-8');
  }
  try {
    return JSON.parse(body.toString('utf8'), refusePrototype);
  } catch (error) {
    throw new KybernateError('InvalidInput', `the body is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes <= MAX_BODY_BYTES) {
        chunks.push(chunk);
      } else if (bytes > MAX_DROPPED_BYTES) {
        break;
      }
    }
  } catch (error) {
    throw new KybernateError('InvalidInput', `the body ended early: ${messageOf(error)}`, { cause: error });
  }
  if (bytes > MAX_BODY_BYTES) {
    throw new KybernateError('InvalidInput', `the body is longer than ${MAX_BODY_BYTES} bytes`);
  }
  return Buffer.concat(chunks);
}

/** Schemas leave the key out, and what is sent on would still have it. */
function refusePrototype(key: string, value: unknown): unknown {
  if (key === '__proto__') {
    throw new Error('it has a key __proto__');
  }
  return value;
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
}

/**
 * One JSON object a line, the last one with the end. A reader that goes away ends nothing but its own stream.
 * @param follow its signal is aborted when the reader goes away; what it throws before its first object is thrown on
 */
export async function sendLines(
  response: ServerResponse,
  follow: (signal: AbortSignal) => AsyncIterable<unknown>,
): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  for await (const line of follow(gone.signal)) {
    if (!response.headersSent) {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    }
    response.write(`${JSON.stringify(line)}\n`);
    await sleep(LINE_PAUSE_MS);
  }
  response.end();
}
