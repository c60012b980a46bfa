/*
 * signature.json: who vouches for a checkpoint. Root signs when it commits, before any byte leaves the node; the file
 * lies beside metadata.json and travels in the published manifest. It covers the digests of both texts that describe the
 * checkpoint, and its id: nothing of it can be changed, or be given out as another checkpoint.
 */
import * as z from 'zod';
import { checkpointId } from '../contract/common.ts';

export const SIGNATURE_VERSION = 1;
/**
 * Whom a node believes.
 *   off       signatures are not looked at
 *   accept    unsigned and foreign-signed is accepted; a signature that contradicts the checkpoint is refused
 *   required  only what a trusted key has signed
 */
export const SIGNATURE_MODES = ['off', 'accept', 'required'] as const;
export type SignatureMode = (typeof SIGNATURE_MODES)[number];

/** A key that is replaced signs beside its successor for a while; more signers than this are nobody's need. */
const MAX_SIGNATURES = 8;

const digest = z.string().regex(/^[0-9a-f]{64}$/);

export const signedStatement = z.strictObject({
  checkpointId,
  merkleRoot: digest,
  totalBytes: z.int().min(0),
  /** BLAKE3 of the text of manifest.json */
  filesDigest: digest,
  /** BLAKE3 of the text of metadata.json */
  metadataDigest: digest,
});
export type SignedStatement = z.output<typeof signedStatement>;

export const signatureFile = z.strictObject({
  version: z.literal(SIGNATURE_VERSION),
  statement: signedStatement,
  signatures: z
    .array(
      z.strictObject({
        algorithm: z.literal('ed25519'),
        /** first 16 digits of the BLAKE3 of the public key in DER (SubjectPublicKeyInfo) */
        keyId: z.string().regex(/^[0-9a-f]{16}$/),
        /** base64, 64 bytes */
        signature: z.base64(),
      }),
    )
    .max(MAX_SIGNATURES),
});
export type SignatureFile = z.output<typeof signatureFile>;

/** The bytes that are signed; the id of the key is among them. */
export function statementBytes(statement: SignedStatement, keyId: string): Uint8Array {
  const { checkpointId: id, merkleRoot, totalBytes, filesDigest, metadataDigest } = statement;
  const list = [id, merkleRoot, totalBytes, filesDigest, metadataDigest, keyId];
  return new TextEncoder().encode(`kybernate signature ${SIGNATURE_VERSION}\n${JSON.stringify(list)}\n`);
}

export function encodeSignature(value: SignatureFile): string {
  return `${JSON.stringify(value, undefined, 1)}\n`;
}
