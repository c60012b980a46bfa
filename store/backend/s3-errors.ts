/* From the SDK's errors to ours; no import of the SDK, its errors are known by their fields. */
import { KybernateError, messageOf } from '../../core/errors.ts';

const DENIED_NAMES = new Set([
  'NoSuchBucket',
  'InvalidBucketName',
  'AccessDenied',
  'AllAccessDisabled',
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
  'ExpiredToken',
  'InvalidToken',
  'PermanentRedirect',
  'AuthorizationHeaderMalformed',
  'CredentialsProviderError',
]);
/** Damage on the way; a multipart upload that a lost reply had already completed: the same call works again. */
const PASSING_NAMES = new Set([
  'BadDigest',
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'IncompleteBody',
  'SlowDown',
  'NoSuchUpload',
]);

/** @param url of the store */
export function toStorageError(url: string, what: string, error: unknown): unknown {
  if (error instanceof KybernateError) {
    return error;
  }
  if (isRefusal(error)) {
    return storageDenied(url, textOf(what, error), error);
  }
  const type = isPassing(error) ? 'StorageUnavailable' : 'Internal';
  return new KybernateError(type, `${url} failed: ${textOf(what, error)}`, { details: { url }, cause: error });
}

function textOf(what: string, error: unknown): string {
  const status = statusOf(error);
  return `${what}: ${nameOf(error)}${status === undefined ? '' : ` (HTTP ${status})`}: ${messageOf(error)}`;
}

/** It will not work until somebody changes something. A 404 that is not NoSuchKey is about the bucket, or the user. */
function isRefusal(error: unknown): boolean {
  if (wasCutOff(error)) {
    return false;
  }
  const refused = DENIED_NAMES.has(nameOf(error)) || [301, 401, 403, 404].includes(statusOf(error) ?? 0);
  return refused && !PASSING_NAMES.has(nameOf(error));
}

/** The body of an answer that would have told the error did not arrive: its status alone proves nothing. */
function wasCutOff(error: unknown): boolean {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'ECONNRESET' || messageOf(error).includes('Deserialization error');
}

/** True for an error after which the same request may succeed: no answer at all, too busy, damaged on the way. */
export function isPassing(error: unknown): boolean {
  if (error instanceof KybernateError || isRefusal(error)) {
    return false;
  }
  const status = statusOf(error);
  // 409 is S3's answer to two conditional writes at once. An answer of 2xx that is an error was cut off.
  const passing =
    wasCutOff(error) || status === undefined || status < 300 || status >= 500 || [408, 409, 429].includes(status);
  return passing || PASSING_NAMES.has(nameOf(error));
}

export function storageDenied(url: string, text: string, cause: unknown): KybernateError {
  return new KybernateError('StorageDenied', `${url} refuses us: ${text}`, { details: { url }, cause });
}

/** HTTP status of an answer; undefined when there was none. */
export function statusOf(error: unknown): number | undefined {
  const metadata: unknown = error instanceof Error && '$metadata' in error ? error.$metadata : undefined;
  const status: unknown =
    typeof metadata === 'object' && metadata !== null && 'httpStatusCode' in metadata
      ? metadata.httpStatusCode
      : undefined;
  return typeof status === 'number' ? status : undefined;
}

export function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : 'unknown error';
}
