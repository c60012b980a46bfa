import { describe, expect, it } from 'vitest';
import { ERRORS, KybernateError } from '../core/errors.ts';
import type { ErrorType } from '../core/errors.ts';
import { CLI_ERRORS, CliError, errorJson, exitCodesHelp, renderError, reportOf } from './exit-codes.ts';

/** As Temporal's classes look after they crossed the wire; built here so that no test needs a server. */
function failure(name: string, message: string, fields: object = {}, cause?: Error): Error {
  return Object.assign(new Error(message, { cause }), { name }, fields);
}

describe('reportOf', () => {
  it.each(Object.keys(ERRORS) as ErrorType[])('gives %s the exit code of the table', (type) => {
    expect(reportOf(new KybernateError(type, 'x')).exitCode).toBe(ERRORS[type].exitCode);
  });

  it('finds the failure of an activity below the wrappers of Temporal', () => {
    const application = failure('ApplicationFailure', 'CRIU said no', {
      type: 'DumpFailed',
      details: [{ node: 'node-a', log: '/var/log/dump.log' }],
    });
    const wrapped = failure(
      'WorkflowFailedError',
      'Workflow execution failed',
      {},
      failure('ActivityFailure', 'x', {}, application),
    );

    expect(reportOf(wrapped)).toMatchObject({
      type: 'DumpFailed',
      message: 'CRIU said no',
      details: { node: 'node-a', log: '/var/log/dump.log' },
      exitCode: 12,
    });
  });

  it.each([
    [
      'a cancelled workflow',
      failure('WorkflowFailedError', 'x', {}, failure('CancelledFailure', 'x')),
      'Cancelled',
      130,
    ],
    [
      'a terminated workflow',
      failure('WorkflowFailedError', 'x', {}, failure('TerminatedFailure', 'x')),
      'OperationTerminated',
      68,
    ],
    ['an unknown workflow', failure('WorkflowNotFoundError', 'not found'), 'OperationNotFound', 66],
    [
      'a server that is away',
      failure('ServiceError', 'x', {}, failure('Error', 'x', { code: 14, metadata: {} })),
      'TemporalUnreachable',
      69,
    ],
    ['an unknown failure type', failure('ApplicationFailure', 'x', { type: 'TypeError' }), 'Internal', 70],
    ['something that is no error', 'text', 'Internal', 70],
  ])('names %s', (_, error, type, exitCode) => {
    expect(reportOf(error)).toMatchObject({ type, exitCode });
  });

  it('takes state and remedy from the failure when it knows better, and says the remedy once', () => {
    const error = new KybernateError('DiskFull', 'no room; free 3 GiB', {
      details: { workload: 'held', remedy: 'free 3 GiB', node: 'node-a' },
    });

    expect(reportOf(error)).toMatchObject({
      message: 'no room',
      workload: 'held',
      remedy: 'free 3 GiB',
      details: { workload: 'held', node: 'node-a' },
    });
  });

  it('ends on a cause chain that bites its tail', () => {
    const error = new Error('x');
    error.cause = error;

    expect(reportOf(error).type).toBe('Internal');
  });
});

describe('renderError', () => {
  it('says what, the state of the workload, where, and the remedy', () => {
    const error = new KybernateError(
      'DumpFailed',
      'runc checkpoint ended with 1: Error (criu/sk-inet.c:189): in-flight connection',
      {
        details: { node: 'node-a', container: 'default/redis', checkpointId: 'ck-1' },
      },
    );

    expect(renderError(reportOf(error))).toBe(
      [
        'kybernate: DumpFailed: runc checkpoint ended with 1: Error (criu/sk-inet.c:189): in-flight connection',
        '  workload: running',
        '  where:    node node-a, container default/redis, checkpointId ck-1',
        '  remedy:   read the CRIU lines in the message and the saved log',
      ].join('\n'),
    );
  });

  it('says nothing of a workload when there is none', () => {
    expect(renderError(reportOf(new KybernateError('CheckpointNotFound', 'no checkpoint "x"')))).not.toContain(
      'workload',
    );
  });
});

describe('errorJson', () => {
  it('has exactly type, message, details and remedy', () => {
    const error = new CliError('OperationNotFound', 'no such workflow', { details: { workflowId: 'x' } });

    expect(errorJson(reportOf(error))).toEqual({
      error: {
        type: 'OperationNotFound',
        message: 'no such workflow',
        details: { workflowId: 'x' },
        remedy: CLI_ERRORS.OperationNotFound.remedy,
      },
    });
  });
});

describe('exit codes', () => {
  it('are different for every error', () => {
    const codes = [...Object.values(ERRORS), ...Object.values(CLI_ERRORS)].map((row) => row.exitCode);

    expect(new Set(codes).size).toBe(codes.length);
  });

  it('are listed in ascending order in the help', () => {
    expect(exitCodesHelp(['Poisoned', 'ContainerNotFound'])).toBe(
      [
        '',
        'Exit codes:',
        '    0  done',
        '    2  wrong usage or InvalidInput',
        '    3  ContainerNotFound',
        '   22  Poisoned',
        '   70  Internal (a bug)',
      ].join('\n'),
    );
  });
});
