/*
 * Key-encryption keys: they wrap the keys that lie in the store and never lie there themselves. From a file, from the
 * environment, or behind a command that talks to a key service. One wraps, any of them unwraps: that is how they rotate.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KEY_BYTES, wrappingKeyId } from '../../core/checkpoint/encryption.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { keyIdOf } from './cipher.ts';
import { readGuardedFile, SECRET_MODE } from './secret-file.ts';

export interface WrappingKey {
  readonly id: string;
  wrap(key: Uint8Array, signal?: AbortSignal): Promise<Uint8Array>;
  /** undefined when the bytes were not wrapped by this key */
  unwrap(wrapped: Uint8Array, signal?: AbortSignal): Promise<Uint8Array | undefined>;
}

export interface KeyRing {
  /** wraps new keys */
  readonly current: WrappingKey;
  /** by id, the current one among them */
  readonly all: ReadonlyMap<string, WrappingKey>;
}

/** Starts a program without a shell; `runExeca` fits. */
export type RunCommand = (
  file: string,
  args: readonly string[],
  options: {
    readonly input: string;
    readonly timeoutMs: number;
    readonly maxOutputBytes: number;
    readonly signal?: AbortSignal;
  },
) => Promise<{
  readonly exitCode?: number;
  readonly timedOut: boolean;
  readonly stdout: string;
  readonly stderr: string;
  readonly startError?: string;
}>;

export interface KeyRingSettings {
  /** KYBERNATE_ENCRYPTION_KEY_FILE */
  readonly keyFile?: string | undefined;
  /** KYBERNATE_ENCRYPTION_KEY: hexadecimal or base64 */
  readonly key?: string | undefined;
  /** KYBERNATE_ENCRYPTION_KEY_COMMAND: JSON array of a program and its arguments */
  readonly keyCommand?: string | undefined;
  /** KYBERNATE_ENCRYPTION_KEY_ID: name of the key behind the command */
  readonly keyCommandId?: string | undefined;
  /** KYBERNATE_ENCRYPTION_OLD_KEYS: directory of key files that only unwrap */
  readonly oldKeys?: string | undefined;
}

/** RFC 3394. */
const WRAP_CIPHER = 'id-aes256-wrap';
const WRAP_IV = Buffer.alloc(8, 0xa6);
const COMMAND_MS = 30_000;
const MAX_OUTPUT_BYTES = 16_384;

/**
 * @returns undefined when no key is configured: the store is plain
 * @throws InvalidInput naming the variable
 */
export async function openKeyRing(settings: KeyRingSettings, run: RunCommand): Promise<KeyRing | undefined> {
  const current = await currentKey(settings, run);
  if (current === undefined) {
    if (settings.oldKeys !== undefined) {
      throw new KybernateError(
        'InvalidInput',
        'KYBERNATE_ENCRYPTION_OLD_KEYS is set without a current key: what is written would not be encrypted',
      );
    }
    return undefined;
  }
  const all = new Map([[current.id, current]]);
  for (const old of settings.oldKeys === undefined ? [] : await oldKeys(settings.oldKeys)) {
    all.set(old.id, all.get(old.id) ?? old);
  }
  return { current, all };
}

async function currentKey(settings: KeyRingSettings, run: RunCommand): Promise<WrappingKey | undefined> {
  const { keyFile, key, keyCommand, keyCommandId } = settings;
  const given = [keyFile, key, keyCommand].filter((value) => value !== undefined);
  if (given.length > 1) {
    throw new KybernateError(
      'InvalidInput',
      'set one of KYBERNATE_ENCRYPTION_KEY_FILE, KYBERNATE_ENCRYPTION_KEY and KYBERNATE_ENCRYPTION_KEY_COMMAND, not several',
    );
  }
  if (keyFile !== undefined) {
    return readKeyFile(keyFile, 'KYBERNATE_ENCRYPTION_KEY_FILE:');
  }
  if (key !== undefined) {
    return localKey(parseKey(Buffer.from(key), 'KYBERNATE_ENCRYPTION_KEY'));
  }
  return keyCommand === undefined ? undefined : commandKey(parseArgv(keyCommand), parseId(keyCommandId), run);
}

async function oldKeys(dir: string): Promise<WrappingKey[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    throw new KybernateError('InvalidInput', `KYBERNATE_ENCRYPTION_OLD_KEYS: ${dir}: ${messageOf(error)}`);
  });
  const files = names.filter((name) => !name.startsWith('.')).sort();
  return Promise.all(files.map((name) => readKeyFile(join(dir, name), 'KYBERNATE_ENCRYPTION_OLD_KEYS:')));
}

async function readKeyFile(path: string, what: string): Promise<WrappingKey> {
  return localKey(parseKey(await readGuardedFile(path, { what, forbiddenMode: SECRET_MODE }), `${what} ${path}`));
}

/** 32 bytes as they are, or as text: 64 hexadecimal digits or base64. @throws InvalidInput without the content */
export function parseKey(content: Uint8Array, what: string): Uint8Array {
  if (content.length === KEY_BYTES) {
    return content;
  }
  const text = Buffer.from(content).toString('latin1').trim();
  const bytes = /^[0-9a-fA-F]{64}$/.test(text) ? Buffer.from(text, 'hex') : Buffer.from(text, 'base64');
  const isText = /^[0-9a-fA-F]{64}$/.test(text) || /^[A-Za-z0-9+/_-]{43}=?$/.test(text);
  if (!isText || bytes.length !== KEY_BYTES) {
    throw new KybernateError(
      'InvalidInput',
      `${what} is no key: ${KEY_BYTES} bytes, or these in hexadecimal or base64`,
    );
  }
  return bytes;
}

/** A key that this process holds: AES key wrap. */
export function localKey(key: Uint8Array): WrappingKey {
  return {
    id: keyIdOf('wrapping', key),
    wrap: (inner) => {
      const cipher = createCipheriv(WRAP_CIPHER, key, WRAP_IV);
      return Promise.resolve(Buffer.concat([cipher.update(inner), cipher.final()]));
    },
    unwrap: (wrapped) => {
      // Of no bytes at all the cipher would make none, and find nothing wrong.
      if (wrapped.length !== KEY_BYTES + WRAP_IV.length) {
        return Promise.resolve(undefined);
      }
      const decipher = createDecipheriv(WRAP_CIPHER, key, WRAP_IV);
      try {
        return Promise.resolve(Buffer.concat([decipher.update(wrapped), decipher.final()]));
      } catch {
        // The check value of RFC 3394 does not match: not wrapped by this key.
        return Promise.resolve(undefined);
      }
    },
  };
}

/**
 * A key that stays where it is. The command is started with `wrap` or `unwrap` as last argument, gets base64 on its
 * input and prints base64; other output, or an exit code, is a failure that may pass.
 */
export function commandKey(argv: readonly [string, ...string[]], id: string, run: RunCommand): WrappingKey {
  const call = async (verb: 'wrap' | 'unwrap', bytes: Uint8Array, signal?: AbortSignal): Promise<Uint8Array> => {
    const [file, ...args] = argv;
    const result = await run(file, [...args, verb], {
      input: `${Buffer.from(bytes).toString('base64')}\n`,
      timeoutMs: COMMAND_MS,
      maxOutputBytes: MAX_OUTPUT_BYTES,
      ...(signal === undefined ? {} : { signal }),
    });
    const text = result.stdout.trim();
    if (result.exitCode !== 0 || text === '' || text.length >= MAX_OUTPUT_BYTES || !/^[A-Za-z0-9+/]+=*$/.test(text)) {
      const why = result.timedOut ? `no answer in ${COMMAND_MS} ms` : (result.startError ?? exitText(result));
      throw new KybernateError('StorageUnavailable', `key ${id}: ${file} ${verb} failed: ${why}`, {
        details: { key: id, command: file, verb, stderr: result.stderr.slice(-2048) },
      });
    }
    return Buffer.from(text, 'base64');
  };
  return {
    id,
    wrap: (key, signal) => call('wrap', key, signal),
    unwrap: (wrapped, signal) => call('unwrap', wrapped, signal),
  };
}

function exitText({ exitCode, stderr }: { readonly exitCode?: number; readonly stderr: string }): string {
  const said = stderr.trim().split('\n').at(-1) ?? '';
  return exitCode === 0 ? 'it printed no base64' : `exit code ${exitCode ?? 'none'}: ${said.slice(0, 200)}`;
}

function parseArgv(text: string): [string, ...string[]] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const words: unknown[] = Array.isArray(value) ? value : [];
  const argv = words.filter((word) => typeof word === 'string');
  const [file, ...rest] = argv;
  if (file === undefined || argv.length !== words.length) {
    throw new KybernateError(
      'InvalidInput',
      'KYBERNATE_ENCRYPTION_KEY_COMMAND: write a program and its arguments as a JSON array, ["/usr/bin/kms", "--key", "x"]',
    );
  }
  return [file, ...rest];
}

function parseId(id: string | undefined): string {
  const parsed = wrappingKeyId.safeParse(id);
  if (!parsed.success) {
    throw new KybernateError(
      'InvalidInput',
      'KYBERNATE_ENCRYPTION_KEY_ID: name the key behind KYBERNATE_ENCRYPTION_KEY_COMMAND: lower case letters, digits, hyphens',
    );
  }
  return parsed.data;
}
