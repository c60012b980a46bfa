/* proto/transfer.proto on a unix socket. */
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type ServiceDefinition,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { TransferKind } from '../core/contract/transfer.ts';
import { isKybernateError, KybernateError, messageOf, type ErrorType } from '../core/errors.ts';
import { protoDirectory } from '../native/proto-directory.ts';
import type { Transfers } from './transfers.ts';

const SERVICE = 'kybernate.transfer.v1.Transfer';
/** At most five messages a second for one that follows. */
const STREAM_PAUSE_MS = 200;

const CODES: Partial<Record<ErrorType, status>> = {
  InvalidInput: status.INVALID_ARGUMENT,
  CheckpointNotFound: status.NOT_FOUND,
  StorageDenied: status.PERMISSION_DENIED,
  StorageUnavailable: status.UNAVAILABLE,
  DiskFull: status.RESOURCE_EXHAUSTED,
};

type Request = Readonly<Record<string, unknown>>;
type Unary = handleUnaryCall<Request, object>;
type Stream = handleServerStreamingCall<Request, object>;

/** @param transfers resolved when the sidecar is ready: calls wait for it */
export function transferServer(transfers: Promise<Transfers>): Server {
  const unary =
    (answer: (all: Transfers, request: Request) => Promise<object> | object): Unary =>
    (call, reply) => {
      transfers
        .then((all) => answer(all, call.request))
        .then(
          (response) => reply(null, response),
          (error: unknown) => reply(failureOf(error)),
        );
    };
  const start = (kind: TransferKind): Unary => unary((all, request) => all.start(kind, withoutDefaults(request)));
  const progress: Stream = (call) => {
    const gone = new AbortController();
    call.once('cancelled', () => gone.abort());
    void (async () => {
      try {
        for await (const state of (await transfers).follow(idOf(call.request), gone.signal)) {
          call.write(state);
          await new Promise((resolve) => setTimeout(resolve, STREAM_PAUSE_MS));
        }
        call.end();
      } catch (error) {
        call.emit('error', failureOf(error));
      }
    })();
  };
  const server = new Server();
  server.addService(definition(), {
    Upload: start('upload'),
    Download: start('download'),
    Prefetch: start('prefetch'),
    Status: unary((all, request) => all.status(idOf(request))),
    Cancel: unary(async (all, request) => await all.cancel(idOf(request))),
    Progress: progress,
  });
  return server;
}

export function bindServer(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) {
        resolve();
      } else {
        reject(error);
      }
    });
  });
}

function definition(): ServiceDefinition {
  const loaded = loadSync('transfer.proto', { includeDirs: [protoDirectory()], longs: Number, defaults: true });
  const service = loaded[SERVICE];
  if (service === undefined || 'format' in service) {
    throw new KybernateError('Internal', `proto/transfer.proto has no ${SERVICE}`);
  }
  return service;
}

/** proto3 has no absent text or list: an empty one stands for the default. */
function withoutDefaults(request: Request): Request {
  const given = ([, value]: [string, unknown]): boolean =>
    value !== '' && !(Array.isArray(value) && value.length === 0);
  return Object.fromEntries(Object.entries(request).filter(given));
}

function idOf(request: Request): string {
  return String(request['transferId']);
}

function failureOf(error: unknown): { code: status; details: string; metadata: Metadata } {
  const type = isKybernateError(error) ? error.type : 'Internal';
  const metadata = new Metadata();
  metadata.set('kybernate-error', type);
  return { code: CODES[type] ?? status.INTERNAL, details: messageOf(error), metadata };
}
