/* How errors look on the sockets of this node: the agent's and the sidecar's, by HTTP and by gRPC. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Metadata, status } from '@grpc/grpc-js';
import { isKybernateError, KybernateError, messageOf, type ErrorType } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { sendJson } from './json-http.ts';

/** Everything else is 500 and INTERNAL: the caller reads the type, the codes are for tools that know nothing else. */
const CODES: Partial<Record<ErrorType, readonly [http: number, grpc: status]>> = {
  InvalidInput: [400, status.INVALID_ARGUMENT],
  RestoreRefused: [403, status.PERMISSION_DENIED],
  StorageDenied: [403, status.PERMISSION_DENIED],
  CheckpointNotFound: [404, status.NOT_FOUND],
  ContainerNotFound: [404, status.NOT_FOUND],
  ProcessNotFound: [404, status.NOT_FOUND],
  ContainerNotRunning: [409, status.FAILED_PRECONDITION],
  Incompatible: [409, status.FAILED_PRECONDITION],
  LockLost: [409, status.ABORTED],
  CheckpointCorrupt: [422, status.DATA_LOSS],
  SignatureInvalid: [422, status.DATA_LOSS],
  RestorePending: [503, status.UNAVAILABLE],
  StorageUnavailable: [503, status.UNAVAILABLE],
  NodeUnavailable: [503, status.UNAVAILABLE],
  DiskFull: [507, status.RESOURCE_EXHAUSTED],
};

function known(error: unknown): KybernateError {
  return isKybernateError(error) ? error : new KybernateError('Internal', messageOf(error), { cause: error });
}

/** `{ "error": { type, message, details } }` with the names of docs/errors.md; a stream that has begun is cut off. */
export function sendError(log: Logger, request: IncomingMessage, response: ServerResponse, error: unknown): void {
  if (response.destroyed && error instanceof Error && error.name === 'AbortError') {
    log.info({ url: request.url }, 'call ended: its caller went away');
    return;
  }
  const { type, message, details } = known(error);
  log[type === 'Internal' ? 'error' : 'warn']({ url: request.url, type, error: message }, 'call failed');
  if (response.headersSent) {
    response.destroy();
  } else {
    sendJson(response, CODES[type]?.[0] ?? 500, { error: { type, message, details } });
  }
}

/** Trailers are short: clients refuse long ones, and then nobody is told anything. */
const MAX_DETAILS = 2000;

/** The name of the type is in the trailer `kybernate-error`. */
export function grpcFailure(error: unknown): { code: status; details: string; metadata: Metadata } {
  const { type, message } = known(error);
  const metadata = new Metadata();
  metadata.set('kybernate-error', type);
  // gRPC writes it by encodeURI, which throws on half a surrogate pair.
  const details = message.slice(0, MAX_DETAILS).toWellFormed();
  return { code: CODES[type]?.[1] ?? status.INTERNAL, details, metadata };
}
