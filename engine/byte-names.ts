/*
 * File names as byte strings: one character a byte. Linux names are bytes; read as UTF-8, those of another encoding
 * would lead to no file. Every name of a walked file system or an archive is kept this way until it meets a system call.
 */

export function nameBytes(name: string): Uint8Array {
  return Buffer.from(name, 'latin1');
}

export function nameOfBytes(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** @param dir an ordinary path @param name a byte string below it */
export function pathBelow(dir: string, name: string): Buffer {
  return name === '' ? Buffer.from(dir) : Buffer.concat([Buffer.from(`${dir}/`), nameBytes(name)]);
}

/** For messages. */
export function printable(name: string): string {
  return JSON.stringify(Buffer.from(name, 'latin1').toString('utf8'));
}

/** A name in JSON: text where it is UTF-8, else its bytes. */
export type JsonName = string | { readonly base64: string };

export function toJsonName(name: string): JsonName {
  const bytes = Buffer.from(name, 'latin1');
  const text = bytes.toString('utf8');
  return Buffer.from(text, 'utf8').equals(bytes) ? text : { base64: bytes.toString('base64') };
}

/** Undefined for what is no name. */
export function fromJsonName(value: unknown): string | undefined {
  if (typeof value === 'string') {
    return Buffer.from(value, 'utf8').toString('latin1');
  }
  const base64 = typeof value === 'object' && value !== null && 'base64' in value ? value.base64 : undefined;
  return typeof base64 === 'string' ? Buffer.from(base64, 'base64').toString('latin1') : undefined;
}

/** In the order of their bytes: parents come before what is below them. */
export function compareNames(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}
