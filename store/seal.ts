/*
 * The published manifest is the one object that nothing else names by digest, so it carries its own: its last member
 * `seal` is the BLAKE3 of all text before it. It finds what disks and networks do; who wants to deceive can seal anew,
 * and is found by the signature.
 */
import { KybernateError } from '../core/errors.ts';
import { hexDigestOf } from './digest.ts';

const END = '\n}\n';
const SEAL = /,\n "seal": "([0-9a-f]{64})"\n\}\n$/;

/** @param text an object as JSON, each member on lines of its own, as `encodePublishedManifest` writes it */
export function seal(text: string): Uint8Array {
  const body = text.slice(0, -END.length);
  return Buffer.from(`${body},\n "seal": "${hexDigestOf(Buffer.from(body))}"${END}`);
}

/**
 * The text that was sealed.
 * @throws CheckpointCorrupt naming `where`
 */
export function unseal(bytes: Uint8Array, where: string): string {
  const text = new TextDecoder().decode(bytes);
  const found = SEAL.exec(text);
  const body = Buffer.from(text.slice(0, found?.index ?? 0));
  // A byte that is no UTF-8 is decoded to another text, whose length in bytes differs or whose digest does.
  if (found === null || hexDigestOf(body) !== found[1] || body.length + Buffer.byteLength(found[0]) !== bytes.length) {
    throw new KybernateError('CheckpointCorrupt', `${where} is damaged: its seal does not match`);
  }
  return `${body.toString('utf8')}${END}`;
}
