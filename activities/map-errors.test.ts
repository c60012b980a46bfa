import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { ERRORS, KybernateError, type ErrorType } from '../core/errors.ts';
import { mapError } from './map-errors.ts';

const running = new AbortController().signal;
const aborted = AbortSignal.abort(new CancelledFailure('CANCELLED'));

describe('mapError', () => {
  it.each(Object.keys(ERRORS) as ErrorType[])('keeps the type %s and its retryability', (type) => {
    const mapped = mapError(new KybernateError(type, 'what happened', { details: { pid: 7 } }), running);

    expect(mapped).toBeInstanceOf(ApplicationFailure);
    expect(mapped).toMatchObject({
      type,
      nonRetryable: !ERRORS[type].retryable,
      message: `what happened; ${ERRORS[type].remedy}`,
      details: [{ pid: 7, remedy: ERRORS[type].remedy, workload: ERRORS[type].workload }],
    });
  });

  it('turns anything else into a retryable Internal with its cause', () => {
    const cause = new TypeError('x is undefined');

    expect(mapError(cause, running)).toMatchObject({ type: 'Internal', nonRetryable: false, cause });
    expect(mapError('text', running)).toMatchObject({ type: 'Internal', message: 'text' });
  });

  it.each([
    ['the reason of the signal', aborted.reason],
    ['an AbortError', new DOMException('aborted', 'AbortError')],
  ])('turns %s into a cancellation once the activity is cancelled', (_title, error) => {
    expect(mapError(error, aborted)).toBeInstanceOf(CancelledFailure);
  });

  it('does not call an abort a cancellation when nobody cancelled', () => {
    expect(mapError(new DOMException('aborted', 'AbortError'), running)).toMatchObject({ type: 'Internal' });
  });

  it('keeps an error of the step although it is cancelled', () => {
    expect(mapError(new KybernateError('Poisoned', 'frozen'), aborted)).toMatchObject({ type: 'Poisoned' });
  });

  it("lets Temporal's own failures pass", () => {
    const failure = ApplicationFailure.nonRetryable('no', 'Custom');

    expect(mapError(failure, running)).toBe(failure);
  });

  it('cuts a message that would fill the history', () => {
    const { message } = mapError(new KybernateError('DumpFailed', 'x'.repeat(100_000)), running) as Error;

    expect(message.length).toBeLessThan(5000);
  });
});
