/* The one place where the errors of engine and store become Temporal's. */
import type { Context } from '@temporalio/activity';
import { CompleteAsyncError } from '@temporalio/activity';
import { ApplicationFailure, CancelledFailure, TemporalFailure } from '@temporalio/common';
import type { ActivityInterceptors } from '@temporalio/worker';
import { ERRORS, isKybernateError, messageOf } from '../core/errors.ts';

/** Messages cross Temporal and are shown in lists; whole logs stay on the node. */
const MAX_MESSAGE_CHARS = 4096;

/**
 * @param signal the attempt's own cancellation: an abort is a cancellation only when this was aborted
 * @returns what the activity has to throw instead
 */
export function mapError(error: unknown, signal: AbortSignal): unknown {
  if (error instanceof TemporalFailure || error instanceof CompleteAsyncError) {
    return error;
  }
  if (isKybernateError(error)) {
    const row = ERRORS[error.type];
    const { remedy } = { remedy: row.remedy, ...error.details };
    return ApplicationFailure.create({
      type: error.type,
      message: cut(`${error.message}; ${remedy}`),
      nonRetryable: !row.retryable,
      details: [{ workload: row.workload, remedy: row.remedy, ...error.details }],
      ...(error.cause instanceof Error ? { cause: error.cause } : {}),
    });
  }
  if (signal.aborted && isAbort(error, signal)) {
    return new CancelledFailure(messageOf(signal.reason));
  }
  return ApplicationFailure.create({
    type: 'Internal',
    message: cut(messageOf(error)),
    nonRetryable: false,
    ...(error instanceof Error ? { cause: error } : {}),
  });
}

function isAbort(error: unknown, signal: AbortSignal): boolean {
  return (
    error === signal.reason || (error instanceof Error && (error.name === 'AbortError' || error.name === 'ABORT_ERR'))
  );
}

function cut(message: string): string {
  return message.length <= MAX_MESSAGE_CHARS ? message : `${message.slice(0, MAX_MESSAGE_CHARS)} [cut]`;
}

/** For `WorkerOptions.interceptors.activity`. */
export function mapErrorsInterceptor(context: Context): ActivityInterceptors {
  return {
    inbound: {
      async execute(input, next) {
        try {
          return await next(input);
        } catch (error) {
          throw mapError(error, context.cancellationSignal);
        }
      },
    },
  };
}
