import { Client, credentials, Metadata, status, type ServiceError } from '@grpc/grpc-js';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { methodOf } from './protos.ts';

const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** absent: as long as it takes */
  readonly timeoutMs?: number;
  /** what the call makes belongs to this lease */
  readonly lease?: string | undefined;
}

/** Reads and small changes: containerd answers in milliseconds, or something is wrong. */
export const QUICK: CallOptions = { timeoutMs: 30_000 };
/** Calls that run the runtime, unpack or compare file systems. */
export const LONG: CallOptions = { timeoutMs: 3_600_000 };

export interface Channel {
  /** @throws KybernateError with `details.grpcCode`; the signal's reason when it was aborted */
  readonly call: <Response>(
    namespace: string,
    service: string,
    name: string,
    request: object,
    options?: CallOptions,
  ) => Promise<Response>;
  readonly stream: <Response>(
    namespace: string,
    service: string,
    name: string,
    request: object,
  ) => AsyncIterable<Response>;
  readonly close: () => void;
}

/** The name of the gRPC code that an error of this client carries, for example `NOT_FOUND`. */
export function grpcCodeOf(error: unknown): string | undefined {
  const code = error instanceof KybernateError ? error.details['grpcCode'] : undefined;
  return typeof code === 'string' ? code : undefined;
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && typeof (error as Partial<ServiceError>).code === 'number';
}

function mapError(error: unknown, address: string, namespace: string, what: string): unknown {
  if (!isServiceError(error)) {
    return error;
  }
  const grpcCode = status[error.code] ?? String(error.code);
  const details = { grpcCode, call: what, namespace };
  const text = error.details === '' ? messageOf(error) : error.details;
  if (error.code === status.UNAVAILABLE) {
    return new KybernateError('RuntimeUnavailable', `containerd at ${address} does not answer: ${what}: ${text}`, {
      details,
      cause: error,
    });
  }
  // containerd passes the kernel's words on; the gRPC code is UNKNOWN for them
  const full = error.code === status.RESOURCE_EXHAUSTED || /no space left on device/i.test(text);
  return new KybernateError(
    full ? 'DiskFull' : 'Internal',
    `containerd: ${what} in ${namespace}: ${grpcCode}: ${text}`,
    {
      details,
      cause: error,
    },
  );
}

/** Connects lazily and again by itself; a containerd that is down is an error of each call, at once. */
export function openChannel(address: string): Channel {
  const client = new Client(`unix:${address}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    // containerd restarts in a second: do not wait two minutes to find out
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 1000,
    'grpc.enable_http_proxy': 0,
  });

  function metadataOf(namespace: string, lease?: string): Metadata {
    const metadata = new Metadata();
    metadata.set('containerd-namespace', namespace);
    if (lease !== undefined) {
      metadata.set('containerd-lease', lease);
    }
    return metadata;
  }

  function call<Response>(
    namespace: string,
    service: string,
    name: string,
    request: object,
    options: CallOptions = {},
  ): Promise<Response> {
    const { signal, timeoutMs } = options;
    const method = methodOf(service, name);
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason as Error);
        return;
      }
      const cancel = (): void => pending.cancel();
      const pending = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        metadataOf(namespace, options.lease),
        timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs },
        (error, response) => {
          signal?.removeEventListener('abort', cancel);
          if (error === null) {
            resolve(response as Response);
          } else if (signal?.aborted === true) {
            reject(signal.reason as Error);
          } else {
            reject(mapError(error, address, namespace, `${service}/${name}`));
          }
        },
      );
      signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  async function* stream<Response>(
    namespace: string,
    service: string,
    name: string,
    request: object,
  ): AsyncIterable<Response> {
    const method = methodOf(service, name);
    const responses = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadataOf(namespace),
    );
    try {
      for await (const response of responses) {
        yield response as Response;
      }
    } catch (error) {
      throw mapError(error, address, namespace, `${service}/${name}`);
    } finally {
      responses.cancel();
    }
  }

  return { call, stream, close: () => client.close() };
}

/** Absent is an answer, not an error. */
export async function orUndefined<T>(pending: Promise<T>): Promise<T | undefined> {
  try {
    return await pending;
  } catch (error) {
    if (grpcCodeOf(error) === 'NOT_FOUND') {
      return undefined;
    }
    throw error;
  }
}

/** A second attempt of a create finds its own work. */
export async function unlessExists(pending: Promise<unknown>): Promise<void> {
  try {
    await pending;
  } catch (error) {
    if (grpcCodeOf(error) !== 'ALREADY_EXISTS') {
      throw error;
    }
  }
}
