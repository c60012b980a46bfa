/* proto/transfer.proto on a unix socket. */
import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { TransferKind } from '../core/contract/transfer.ts';
import { type GrpcRequest, loadProto, serviceOf, streaming, unary, type Unary } from './grpc-service.ts';
import type { Transfers } from './transfers.ts';

const SERVICE = 'kybernate.transfer.v1.Transfer';

/** @param transfers resolved when the sidecar is ready: calls wait for it */
export function transferServer(transfers: Promise<Transfers>): Server {
  const start = (kind: TransferKind): Unary =>
    unary(async (request) => (await transfers).start(kind, withoutDefaults(request)));
  const server = new Server();
  server.addService(serviceOf(loadProto('transfer.proto'), SERVICE), {
    Upload: start('upload'),
    Download: start('download'),
    Prefetch: start('prefetch'),
    Status: unary(async (request) => (await transfers).status(idOf(request))),
    Cancel: unary(async (request) => (await transfers).cancel(idOf(request))),
    Progress: streaming(async function* (request, signal) {
      yield* (await transfers).follow(idOf(request), signal);
    }),
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

/** Its fields do not tell whether they were set: an empty text or list stands for the default. */
function withoutDefaults(request: GrpcRequest): GrpcRequest {
  const given = ([, value]: [string, unknown]): boolean =>
    value !== '' && !(Array.isArray(value) && value.length === 0);
  return Object.fromEntries(Object.entries(request).filter(given));
}

function idOf(request: GrpcRequest): string {
  const { transferId } = request;
  return typeof transferId === 'string' ? transferId : '';
}
