/*
 * From anything that was thrown to what the user is told and to the exit code. Every exit code comes from the table in
 * core/errors.ts, or from the few rows below for what happens between the CLI and Temporal.
 */
import { ERRORS, EXIT_CANCELLED, EXIT_OK, isErrorType, isKybernateError, messageOf } from '../core/errors.ts';
import type { ErrorDetails, ErrorRow, ErrorType, WorkloadState } from '../core/errors.ts';

/** Errors that no workflow fails with. */
export const CLI_ERRORS = {
  OperationNotFound: {
    exitCode: 66,
    workload: 'none',
    remedy: 'list the operations with `kybernate ps`; Temporal forgets closed ones after its retention time',
  },
  OperationTerminated: {
    exitCode: 68,
    workload: 'unknown',
    remedy:
      'a terminated workflow undoes nothing: the node undoes a frozen section by itself within 30 s; look at it with `kybernate doctor`',
  },
  TemporalUnreachable: {
    exitCode: 69,
    workload: 'none',
    remedy:
      'start a Temporal server (`kybernate up` starts a local one) or set TEMPORAL_ADDRESS; an operation already started is found again with `kybernate watch`',
  },
  Cancelled: {
    exitCode: EXIT_CANCELLED,
    workload: 'running',
    remedy:
      'nothing to do: what had been made was undone, but for a checkpoint that was committed before: `kybernate ls` shows it',
  },
} as const satisfies Record<string, Pick<ErrorRow, 'exitCode' | 'workload' | 'remedy'>>;

export type CliErrorType = keyof typeof CLI_ERRORS;

/** An error of the CLI itself, for those who cannot use KybernateError. */
export class CliError extends Error {
  readonly type: CliErrorType;
  readonly details: ErrorDetails;

  constructor(type: CliErrorType, message: string, options: { details?: ErrorDetails; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = type;
    this.type = type;
    this.details = options.details ?? {};
  }
}

/** What is shown of an error; with `--json` its first four fields are printed below the key `error`. */
export interface ErrorReport {
  readonly type: ErrorType | CliErrorType;
  readonly message: string;
  readonly details: ErrorDetails;
  readonly remedy: string;
  readonly workload: WorkloadState;
  readonly exitCode: number;
}

/**
 * Finds the first link of the cause chain that says something: Temporal wraps the failure of a workflow in a
 * `WorkflowFailedError`, and that of an activity in an `ActivityFailure`. Looked at by name, so that rendering an error
 * does not load Temporal's packages.
 */
export function reportOf(error: unknown): ErrorReport {
  for (let link: unknown = error, depth = 0; link instanceof Error && depth < 16; link = link.cause, depth += 1) {
    const report = reportOfLink(link);
    if (report !== undefined) {
      return report;
    }
  }
  return report('Internal', messageOf(error), error instanceof Error ? { stack: error.stack ?? '' } : {});
}

function reportOfLink(link: Error): ErrorReport | undefined {
  if (isKybernateError(link) || link instanceof CliError) {
    return report(link.type, link.message, link.details);
  }
  if (link.name === 'ApplicationFailure' && 'type' in link && isErrorType(link.type)) {
    return report(link.type, link.message, detailsOfFailure(link));
  }
  if (link.name === 'CancelledFailure') {
    return report('Cancelled', 'the operation was cancelled', {});
  }
  if (link.name === 'TerminatedFailure') {
    return report('OperationTerminated', `the workflow was terminated: ${link.message}`, {});
  }
  if (link.name === 'WorkflowNotFoundError') {
    return report('OperationNotFound', messageOf(link), {});
  }
  if (link.name === 'NamespaceNotFoundError') {
    const message = `the Temporal server has no such namespace: ${messageOf(link)}; make it with \`kybernate temporal apply\``;
    return report('TemporalUnreachable', message, {});
  }
  if (isUnreachable(link)) {
    return report('TemporalUnreachable', `the Temporal server does not answer: ${messageOf(link)}`, {});
  }
  return undefined;
}

/** gRPC status 14 (unavailable) and 4 (deadline exceeded), as grpc-js puts them on its errors. */
function isUnreachable(link: Error): boolean {
  return 'code' in link && 'metadata' in link && (link.code === 14 || link.code === 4);
}

function detailsOfFailure(failure: Error): ErrorDetails {
  const details: unknown = 'details' in failure && Array.isArray(failure.details) ? failure.details[0] : undefined;
  return typeof details === 'object' && details !== null ? { ...details } : {};
}

function report(type: ErrorType | CliErrorType, text: string, given: ErrorDetails): ErrorReport {
  const row = rowOf(type);
  // A failed workflow knows more than the table: its details may carry the state and a better remedy, and its message
  // ends with the remedy, for those who read it in the Web UI.
  const { remedy: better, ...details } = given;
  const remedy = typeof better === 'string' ? better : row.remedy;
  const message = text.endsWith(`; ${remedy}`) ? text.slice(0, -remedy.length - 2) : text;
  const workload = isWorkload(details['workload']) ? details['workload'] : row.workload;
  return { type, message, details, remedy, workload, exitCode: row.exitCode };
}

function isWorkload(value: unknown): value is WorkloadState {
  return typeof value === 'string' && Object.hasOwn(WORKLOAD_TEXT, value);
}

function rowOf(type: ErrorType | CliErrorType): Pick<ErrorRow, 'exitCode' | 'workload' | 'remedy'> {
  return isErrorType(type) ? ERRORS[type] : CLI_ERRORS[type];
}

const WORKLOAD_TEXT: Readonly<Record<WorkloadState, string | undefined>> = {
  untouched: 'untouched, it was not stopped at any time',
  running: 'running',
  held: 'held: frozen until it is released',
  unknown: 'unknown: look at the node',
  lost: 'lost: it does not run any more',
  none: undefined,
};

/** The commands that stop a running workload for a while, or are about those that do. Of any other one it is not known. */
const ON_WORKLOADS = new Set([
  'checkpoint',
  'process checkpoint',
  'gpu rehearse',
  'gpu test',
  'watch',
  'cancel',
  'release',
]);
/** After these somebody has to look at a workload, whatever the command was. */
const ALARMS: readonly string[] = ['Poisoned', 'CompensationFailed'] satisfies ErrorType[];

/**
 * What, where, state of the workload, remedy; one line each.
 * @param command words of the command, without the name of the program; absent: one on a workload
 */
export function renderError(error: ErrorReport, command?: string): string {
  const lines = [`kybernate: ${error.type}: ${error.message}`];
  const state = WORKLOAD_TEXT[error.workload];
  // Before anything was started there is nothing to say of a workload.
  const isKnown = command === undefined || ON_WORKLOADS.has(command) || ALARMS.includes(error.type);
  if (state !== undefined && isKnown && error.type !== 'InvalidInput') {
    lines.push(`  workload: ${state}`);
  }
  const where = (['node', 'container', 'checkpointId', 'log'] as const)
    .filter((key) => typeof error.details[key] === 'string')
    .map((key) => `${key} ${String(error.details[key])}`);
  if (where.length > 0) {
    lines.push(`  where:    ${where.join(', ')}`);
  }
  // That a wrong field is to be corrected is what the message says already.
  if (error.remedy !== ERRORS.InvalidInput.remedy) {
    lines.push(`  remedy:   ${error.remedy}`);
  }
  return lines.join('\n');
}

/** With `--json`: the one document on stdout when a command fails. */
export function errorJson(error: ErrorReport): { readonly error: Omit<ErrorReport, 'workload' | 'exitCode'> } {
  return { error: { type: error.type, message: error.message, details: error.details, remedy: error.remedy } };
}

/**
 * The section "Exit codes" of a command's help.
 * @param types what the command can fail with, beside bad usage, Temporal and bugs
 * @param own codes that say something else here than in the table of errors
 */
export function exitCodesHelp(
  types: ReadonlyArray<ErrorType | CliErrorType>,
  own: ReadonlyArray<readonly [code: number, text: string]> = [],
): string {
  const rows: Array<[number, string]> = [
    [EXIT_OK, 'done'],
    [ERRORS.InvalidInput.exitCode, 'wrong usage or InvalidInput'],
    [ERRORS.Internal.exitCode, 'Internal (a bug)'],
    ...types.map((type): [number, string] => [
      rowOf(type).exitCode,
      type === 'Cancelled' ? 'Cancelled, or detached from at Ctrl-C' : type,
    ]),
  ];
  const sorted = [...rows, ...own].sort(([left], [right]) => left - right);
  return ['', 'Exit codes:', ...sorted.map(([code, text]) => `  ${String(code).padStart(3)}  ${text}`)].join('\n');
}
