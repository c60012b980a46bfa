import { describe, expect, it } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { toStorageError } from './s3-errors.ts';

function answer(name: string, status?: number): Error {
  const error = Object.assign(
    new Error('said so'),
    status === undefined ? {} : { $metadata: { httpStatusCode: status } },
  );
  error.name = name;
  return error;
}

describe('toStorageError', () => {
  it.each([
    ['AccessDenied', 403, 'StorageDenied'],
    ['InvalidAccessKeyId', 403, 'StorageDenied'],
    ['NoSuchBucket', 404, 'StorageDenied'],
    ['XAdminUserNotFound', 404, 'StorageDenied'],
    ['PermanentRedirect', 301, 'StorageDenied'],
    ['ExpiredToken', 400, 'StorageDenied'],
    ['CredentialsProviderError', undefined, 'StorageDenied'],
    ['InternalError', 500, 'StorageUnavailable'],
    ['SlowDown', 503, 'StorageUnavailable'],
    ['ConditionalRequestConflict', 409, 'StorageUnavailable'],
    ['TooManyRequests', 429, 'StorageUnavailable'],
    ['BadDigest', 400, 'StorageUnavailable'],
    ['NoSuchUpload', 404, 'StorageUnavailable'],
    ['TimeoutError', undefined, 'StorageUnavailable'],
    ['MalformedXML', 400, 'Internal'],
  ])('turns %s (HTTP %s) into %s, with the store and the call in its message', (name, status, type) => {
    const error = toStorageError('s3://bucket', 'get a', answer(name, status));

    expect(error).toMatchObject({ type });
    expect(String(error)).toContain(`get a: ${name}`);
    expect(String(error)).toContain('s3://bucket');
  });

  it('takes an answer that was cut off for none: 404 with half a body is no refusal', () => {
    const cut = Object.assign(answer('Error', 404), { code: 'ECONNRESET' });

    expect(toStorageError('s3://bucket', 'get a', cut)).toMatchObject({ type: 'StorageUnavailable' });
  });

  it('leaves our own errors as they are', () => {
    const own = new KybernateError('InvalidInput', 'x');

    expect(toStorageError('s3://bucket', 'get a', own)).toBe(own);
  });
});
