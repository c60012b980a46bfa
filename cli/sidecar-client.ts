/* The HTTP socket of the sidecar of this node, for commands. */
import { request, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { KybernateError, isErrorType, messageOf, type ErrorDetails } from '../core/errors.ts';
import { sidecarSockets } from '../workers/sidecar-sockets.ts';
import type { CliConfig } from './config.ts';

const TIMEOUT_MS = 60_000;

/** @throws what the sidecar reports; StorageUnavailable no sidecar answers; StorageDenied its socket is another user's */
export async function askSidecar(config: CliConfig, method: string, path: string, body?: object): Promise<unknown> {
  const answer = await send(config, method, path, body);
  const text = await lost(config, async () => {
    let whole = '';
    for await (const part of answer as AsyncIterable<Buffer>) {
      whole += part.toString('utf8');
    }
    return whole;
  });
  return checked(JSON.parse(text));
}

/** Lines of an answer as they come. @throws as `askSidecar`, also when the sidecar ends in the middle */
export async function* followSidecar(config: CliConfig, path: string): AsyncGenerator {
  const answer = await send(config, 'GET', path, undefined);
  // Between two lines a transfer may be quiet for long.
  answer.socket.setTimeout(0);
  const lines = createInterface({ input: answer })[Symbol.asyncIterator]();
  const failed = new Promise<never>((_, reject) => answer.once('error', reject));
  failed.catch(() => undefined);
  for (;;) {
    const next = await lost(config, () => Promise.race([lines.next(), failed]));
    if (next.done === true) {
      return;
    }
    yield checked(JSON.parse(next.value));
  }
}

function send(config: CliConfig, method: string, path: string, body: object | undefined): Promise<IncomingMessage> {
  const socketPath = sidecarSockets(config.runDir).http;
  return lost(
    config,
    () =>
      new Promise((resolve, reject) => {
        const call = request({ socketPath, method, path, timeout: TIMEOUT_MS }, resolve);
        call.on('timeout', () => call.destroy(new Error(`silent for ${TIMEOUT_MS} ms`)));
        call.once('error', reject);
        call.end(body === undefined ? undefined : JSON.stringify(body));
      }),
  );
}

async function lost<Result>({ node, runDir }: CliConfig, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined;
    const denied = code === 'EACCES' || code === 'EPERM';
    throw new KybernateError(
      denied ? 'StorageDenied' : 'StorageUnavailable',
      `the sidecar of ${node} does not answer on ${sidecarSockets(runDir).http}: ${messageOf(error)}; ` +
        (denied ? 'run it as root' : 'start `kybernate sidecar`'),
      {
        // No operation was started: there is nothing to say of a workload.
        details: { remedy: denied ? 'run it as root' : 'start `kybernate sidecar`', workload: 'none' },
        cause: error,
      },
    );
  }
}

function checked(body: unknown): unknown {
  const { error } = body as { error?: { type?: unknown; message?: unknown; details?: ErrorDetails } | null };
  // The status of a transfer that failed has an error, too, and is an answer.
  if (error === undefined || error === null || 'transferId' in (body as object)) {
    return body;
  }
  const { type, message, details } = error;
  throw new KybernateError(
    isErrorType(type) ? type : 'Internal',
    String(message),
    details === undefined ? {} : { details },
  );
}
