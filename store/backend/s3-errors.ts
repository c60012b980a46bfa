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
const PASSING_NAMES = new Set(['BadDigest', 'RequestTimeout', 'IncompleteBody', 'SlowDown', 'NoSuchUpload']);

/** @param url of the store */
export function toStorageError(url: string, what: string, error: unknown): unknown {
  if (error instanceof KybernateError) {
    return error;
  }
  const name = nameOf(error);
  const status = statusOf(error);
  const text = `${what}: ${name}${status === undefined ? '' : ` (HTTP ${status})`}: ${messageOf(error)}`;
  // A 404 that is not NoSuchKey is about the bucket, or (versitygw) the user.
  const refused = DENIED_NAMES.has(name) || [301, 401, 403, 404].includes(status ?? 0);
  if (refused && !PASSING_NAMES.has(name)) {
    return storageDenied(url, text, error);
  }
  // 409 is S3's answer to two conditional writes at once.
  const passing = status === undefined || status >= 500 || [408, 409, 429].includes(status) || PASSING_NAMES.has(name);
  const type = passing ? 'StorageUnavailable' : 'Internal';
  return new KybernateError(type, `${url} failed: ${text}`, { details: { url }, cause: error });
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
