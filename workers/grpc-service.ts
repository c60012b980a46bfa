/* What the gRPC servers of this node share: a service of proto/, and calls that answer with our errors. */
import type { handleServerStreamingCall, handleUnaryCall, Metadata, ServiceDefinition } from '@grpc/grpc-js';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { KybernateError, messageOf } from '../core/errors.ts';
import { withinSpan } from '../core/spans.ts';
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
  return Object.fromEntries(
    Object.entries(service).map(([call, method]) => {
      const requestDeserialize = (bytes: Buffer): object => {
        try {
          return method.requestDeserialize(bytes);
        } catch (error) {
          // Thrown here it would be INTERNAL, and the fault looks like ours.
          return new UnreadableRequest(messageOf(error));
        }
      };
      return [call, { ...method, requestDeserialize }];
    }),
  );
}

/** Bytes that are no message of their call. */
class UnreadableRequest {
  readonly why: string;

  constructor(why: string) {
    this.why = why;
  }
}

/** @throws InvalidInput */
function readable(request: GrpcRequest | UnreadableRequest): GrpcRequest {
  if (request instanceof UnreadableRequest) {
    throw new KybernateError('InvalidInput', `the bytes of the request are no message of this call: ${request.why}`);
  }
  return request;
}

/** W3C Trace Context, as OpenTelemetry's gRPC instrumentations send it. */
function traceOf(metadata: Metadata): string | undefined {
  return metadata.get('traceparent').at(0)?.toString();
}

/**
 * A caller that goes away, or whose deadline is over, ends nothing but its own call.
 * @param answer is given the caller's traceparent, within which it runs
 */
export function unary(answer: (request: GrpcRequest, trace?: string) => Promise<object> | object): Unary {
  return (call, reply) => {
    const trace = traceOf(call.metadata);
    withinSpan(trace, async () => answer(readable(call.request), trace)).then(
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
        for await (const state of follow(readable(call.request), gone.signal)) {
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
