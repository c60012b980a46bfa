/*
 * Every error that a user, an operator or an alert may meet. The names are public API: workflows fail with them as
 * `ApplicationFailure.type`, the CLI exits with `exitCode`, docs/errors.md lists them (a test holds both together).
 */

/** What is known of the workload when the error is reported. */
export type WorkloadState = 'untouched' | 'running' | 'held' | 'unknown' | 'lost' | 'none';

export interface ErrorRow {
  /** May the same call succeed later without anybody changing its input? */
  readonly retryable: boolean;
  /** Who has to act. */
  readonly actor: 'caller' | 'operator' | 'workflow' | 'developer';
  /** State of the workload after this error, when the message does not say more. */
  readonly workload: WorkloadState;
  readonly exitCode: number;
  readonly remedy: string;
}

export const ERRORS = {
  InvalidInput: {
    retryable: false,
    actor: 'caller',
    workload: 'untouched',
    exitCode: 2,
    remedy: 'correct the field that the message names',
  },
  ContainerNotFound: {
    retryable: false,
    actor: 'caller',
    workload: 'none',
    exitCode: 3,
    remedy: 'check the container id, its containerd namespace and the node',
  },
  ContainerNotRunning: {
    retryable: false,
    actor: 'caller',
    workload: 'untouched',
    exitCode: 4,
    remedy: 'start the container first; only a running container can be checkpointed',
  },
  ProcessNotFound: {
    retryable: false,
    actor: 'caller',
    workload: 'none',
    exitCode: 27,
    remedy: 'check the pid, and that it is of that node: `kybernate process analyze <pid>` looks at it',
  },
  CheckpointNotFound: {
    retryable: false,
    actor: 'caller',
    workload: 'none',
    exitCode: 5,
    remedy: 'list the checkpoints with `kybernate ls`',
  },
  CheckpointInUse: {
    retryable: false,
    actor: 'caller',
    workload: 'none',
    exitCode: 67,
    remedy: 'wait until the restore, upload or read is over, or remove it by force',
  },
  NodeUnavailable: {
    retryable: false,
    actor: 'workflow',
    workload: 'untouched',
    exitCode: 6,
    remedy: 'start `kybernate worker node`, or what the message names, on that node; or choose another node',
  },
  Incompatible: {
    retryable: false,
    actor: 'caller',
    workload: 'untouched',
    exitCode: 7,
    remedy: 'remove every reason that the message lists',
  },
  RestoreRefused: {
    retryable: false,
    actor: 'caller',
    workload: 'none',
    exitCode: 8,
    remedy: 'use a checkpoint id, or a path below a configured restore root; allow it in the node policy',
  },
  RestorePending: {
    retryable: true,
    actor: 'workflow',
    workload: 'none',
    exitCode: 28,
    remedy: 'wait: the checkpoint is on its way to the node, and the next attempt goes on where this one ended',
  },
  GpuUnsupported: {
    retryable: false,
    actor: 'caller',
    workload: 'untouched',
    exitCode: 9,
    remedy: 'see docs/support.md for what is supported on a GPU',
  },
  GpuBusy: {
    retryable: true,
    actor: 'workflow',
    workload: 'running',
    exitCode: 10,
    remedy: 'try again when the running kernels have finished, or raise the lock timeout',
  },
  GpuOutOfMemory: {
    retryable: false,
    actor: 'workflow',
    workload: 'unknown',
    exitCode: 11,
    remedy: 'free GPU memory; a process that ran out of it in a restore must be restored from the images again',
  },
  DumpFailed: {
    retryable: false,
    actor: 'operator',
    workload: 'running',
    exitCode: 12,
    remedy: 'read the CRIU lines in the message and the saved log',
  },
  RestoreFailed: {
    retryable: false,
    actor: 'operator',
    workload: 'none',
    exitCode: 13,
    remedy: 'read the CRIU lines in the message and the saved log; the checkpoint is unharmed',
  },
  FreezeBudgetExceeded: {
    retryable: false,
    actor: 'caller',
    workload: 'running',
    exitCode: 14,
    remedy: 'raise freezeBudgetMs, or reduce the memory of the workload',
  },
  CheckpointCorrupt: {
    retryable: false,
    actor: 'operator',
    workload: 'none',
    exitCode: 15,
    remedy:
      'look at its copies with `kybernate verify`, make it whole with `kybernate repair`, or use an older checkpoint; nothing was started from the damaged bytes',
  },
  SignatureInvalid: {
    retryable: false,
    actor: 'operator',
    workload: 'none',
    exitCode: 16,
    remedy: 'trust the signing key, or restore a checkpoint signed by a trusted one',
  },
  KeyUnavailable: {
    retryable: false,
    actor: 'operator',
    workload: 'running',
    exitCode: 23,
    remedy: 'give the process the key-encryption key that the message names, see docs/encryption.md',
  },
  HookFailed: {
    retryable: false,
    actor: 'operator',
    workload: 'running',
    exitCode: 24,
    remedy: 'read what the hook printed; one that may not refuse gets the policy warn, see docs/hooks.md',
  },
  RuntimeUnavailable: {
    retryable: true,
    actor: 'operator',
    workload: 'running',
    exitCode: 25,
    remedy: 'start containerd or Docker, or check the address that the message names; containers run on without it',
  },
  StorageUnavailable: {
    retryable: true,
    actor: 'operator',
    workload: 'running',
    exitCode: 17,
    remedy: 'the upload goes on by itself when the store answers again',
  },
  StorageDenied: {
    retryable: false,
    actor: 'operator',
    workload: 'running',
    exitCode: 18,
    remedy: 'check the bucket name and the credentials of the node',
  },
  DiskFull: {
    retryable: false,
    actor: 'operator',
    workload: 'running',
    exitCode: 19,
    remedy: 'free disk space below the state directory, or delete old checkpoints',
  },
  LockLost: {
    retryable: false,
    actor: 'workflow',
    workload: 'running',
    exitCode: 20,
    remedy: 'a newer operation owns this container; look at it before starting another',
  },
  CompensationFailed: {
    retryable: false,
    actor: 'operator',
    workload: 'unknown',
    exitCode: 21,
    remedy: 'the details list what is left on which node; `kybernate doctor` shows it too',
  },
  Poisoned: {
    retryable: false,
    actor: 'operator',
    workload: 'unknown',
    exitCode: 22,
    remedy: 'the rollback could not be verified: the process may be frozen; look at the node now',
  },
  Internal: {
    retryable: true,
    actor: 'developer',
    workload: 'unknown',
    exitCode: 70,
    remedy: 'this is a bug: please report it with the log of the operation',
  },
} as const satisfies Record<string, ErrorRow>;

export type ErrorType = keyof typeof ERRORS;

/** Exit codes that are not errors of an operation. */
export const EXIT_OK = 0;
export const EXIT_USAGE = 2;
export const EXIT_CANCELLED = 130;

/** Names for `retry.nonRetryableErrorTypes`; never typed by hand. */
export const NON_RETRYABLE_TYPES: readonly ErrorType[] = (Object.keys(ERRORS) as ErrorType[]).filter(
  (type) => !ERRORS[type].retryable,
);

export function isErrorType(value: unknown): value is ErrorType {
  return typeof value === 'string' && Object.hasOwn(ERRORS, value);
}

/** JSON-safe facts beside the message. Small: it crosses Temporal. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/**
 * The one error class outside Temporal. `message` says what failed, with which values, what state the workload is in;
 * the remedy comes from the table unless the thrower knows a better one.
 */
export class KybernateError extends Error {
  readonly type: ErrorType;
  readonly details: ErrorDetails;

  constructor(type: ErrorType, message: string, options: { details?: ErrorDetails; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = type;
    this.type = type;
    this.details = options.details ?? {};
  }
}

export function isKybernateError(error: unknown, type?: ErrorType): error is KybernateError {
  return error instanceof KybernateError && (type === undefined || error.type === type);
}

/** The message of anything that was thrown, never empty. */
export function messageOf(error: unknown): string {
  return error instanceof Error && error.message !== '' ? error.message : String(error);
}

/** Fails to compile when a switch over a union forgets a case. */
export function assertNever(value: never): never {
  throw new KybernateError('Internal', `unexpected value ${JSON.stringify(value)}`);
}
