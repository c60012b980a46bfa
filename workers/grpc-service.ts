/* What the gRPC servers of this node share: a service of proto/, and calls that answer with our errors. */
import type { handleServerStreamingCall, handleUnaryCall, ServiceDefinition } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { KybernateError } from '../core/errors.ts';
import { protoDirectory } from '../native/proto-directory.ts';
import { grpcFailure } from './wire-errors.ts';

/** At most five messages a second for one that follows. */
export const STREAM_PAUSE_MS = 200;

/** As it came over the wire: fields that were not set are absent. */
export type GrpcRequest = Readonly<Record<string, unknown>>;
export type Unary = handleUnaryCall<GrpcRequest, object>;
export type ServerStream = handleServerStreamingCall<GrpcRequest, object>;

export function loadProto(file: string): PackageDefinition {
  return loadSync(file, { includeDirs: [protoDirectory()], longs: Number, enums: String });
}

/** @param name with its package */
export function serviceOf(loaded: PackageDefinition, name: string): ServiceDefinition {
  const service = loaded[name];
  if (service === undefined || 'format' in service) {
    throw new KybernateError('Internal', `the package's proto files have no ${name}`);
  }
  return service;
}

/** A caller that goes away, or whose deadline is over, ends nothing but its own call. */
export function unary(answer: (request: GrpcRequest) => Promise<object> | object): Unary {
  return (call, reply) => {
    Promise.resolve()
      .then(() => answer(call.request))
      .then(
        (response) => reply(null, response),
        (error: unknown) => reply(grpcFailure(error)),
      );
  };
}

/** @param follow its signal is aborted when the caller goes away */
export function streaming(follow: (request: GrpcRequest, signal: AbortSignal) => AsyncIterable<object>): ServerStream {
  return (call) => {
    const gone = new AbortController();
    call.once('cancelled', () => gone.abort());
    void (async () => {
      try {
        for await (const state of follow(call.request, gone.signal)) {
          call.write(state);
          await new Promise((resolve) => setTimeout(resolve, STREAM_PAUSE_MS));
        }
        call.end();
      } catch (error) {
        call.emit('error', grpcFailure(error));
      }
    })();
  };
}
