/* From the URL in the settings to a backend. */
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { Backend } from './backend.ts';
import { openExistingLocalBackend, openLocalBackend } from './local.ts';
import type { S3Settings } from './s3.ts';

export interface StoreSettings extends S3Settings {
  /** where a directory is reached, when not by the path in its URL */
  readonly directory?: string;
  /** a directory that is not there is refused, and none is made: for those who only read */
  readonly mustExist?: boolean;
}

/** Loads what a store of this URL needs, for a process that cannot load it later. */
export async function preloadBackend(url: string): Promise<void> {
  if (parseUrl(url).protocol === 's3:') {
    await import('./s3.ts');
    const ofSdk = createRequire(createRequire(import.meta.url).resolve('@aws-sdk/credential-provider-node'));
    for (const source of CREDENTIAL_SOURCES) {
      ofSdk(source);
    }
  }
}

/** The SDK loads each of them when it first looks there for keys. */
const CREDENTIAL_SOURCES = [
  ...['env', 'http', 'ini', 'process', 'sso', 'web-identity'].map((name) => `@aws-sdk/credential-provider-${name}`),
  '@smithy/credential-provider-imds',
];

/**
 * Opens `file:///dir` (made if missing, unless `mustExist`) or `s3://bucket[/prefix]`. The credentials of S3 come from where the SDK looks
 * for them; it is loaded only when it is needed.
 * @throws InvalidInput for another URL; StorageDenied, StorageUnavailable, DiskFull when a directory cannot be used
 */
export async function openBackend(url: string, settings: StoreSettings = {}): Promise<Backend> {
  const parsed = parseUrl(url);
  if (parsed.protocol === 'file:') {
    const path = toPath(parsed).replace(/(.)\/+$/, '$1');
    const open = settings.mustExist === true ? openExistingLocalBackend : openLocalBackend;
    return open(settings.directory ?? path, pathToFileURL(path).href);
  }
  if (parsed.protocol === 's3:' && parsed.hostname !== '' && parsed.username === '') {
    const { openS3Backend } = await import('./s3.ts');
    const prefix = decodeURIComponent(parsed.pathname).replaceAll(/^\/+|\/+$/g, '');
    return openS3Backend(parsed.hostname, prefix, settings);
  }
  throw new KybernateError('InvalidInput', `store ${JSON.stringify(url)}: write file:///dir or s3://bucket[/prefix]`);
}

function parseUrl(url: string): URL {
  try {
    return new URL(url);
  } catch (error) {
    throw new KybernateError('InvalidInput', `store ${JSON.stringify(url)} is not a URL`, { cause: error });
  }
}

function toPath(url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (error) {
    throw new KybernateError('InvalidInput', `store ${url.href}: ${messageOf(error)}`, { cause: error });
  }
}
