/*
 * Ed25519 over what describes a checkpoint (core/checkpoint/signature.ts). Root signs at the commit; whoever restores
 * checks before it uses a byte: metadata and file list fix every other byte by their digests.
 */
import { createPrivateKey, createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { parseJson, parseManifest } from '../../core/checkpoint/manifest.ts';
import {
  encodeSignature,
  SIGNATURE_VERSION,
  signatureFile,
  statementBytes,
  type SignatureFile,
  type SignatureMode,
  type SignedStatement,
} from '../../core/checkpoint/signature.ts';
import { isKybernateError, KybernateError, messageOf } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { hexDigestOf } from '../digest.ts';
import { errnoOf, writeFileDurably } from '../files.ts';
import { parseMetadata } from '../metadata.ts';
import type { SeenCheckpoints } from './seen.ts';
import { PUBLIC_MODE, readGuardedFile, SECRET_MODE } from './secret-file.ts';

export interface SigningKey {
  readonly keyId: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

/** Whose signatures count. */
export interface TrustPolicy {
  readonly mode: SignatureMode;
  /** by key id */
  readonly keys: ReadonlyMap<string, KeyObject>;
  /** finds older checkpoints that were put back; absent: nothing is remembered */
  readonly seen?: SeenCheckpoints;
}

export interface TrustSettings {
  /** KYBERNATE_SIGNATURES */
  readonly mode: SignatureMode;
  /** KYBERNATE_TRUSTED_KEYS: a public key in PEM, or a directory of such files, `*.pem` */
  readonly trustedKeys?: string | undefined;
  /** its public key is trusted, too: what this node has signed */
  readonly signingKey?: SigningKey | undefined;
}

/** First 16 digits of the digest of the public key in DER. */
export function signingKeyId(publicKey: KeyObject): string {
  return hexDigestOf(publicKey.export({ type: 'spki', format: 'der' })).slice(0, 16);
}

/** @throws InvalidInput when it is no Ed25519 key in PEM, not root's, or readable by others */
export async function readSigningKey(path: string): Promise<SigningKey> {
  const what = 'KYBERNATE_SIGNING_KEY:';
  const pem = await readGuardedFile(path, { what, forbiddenMode: SECRET_MODE, rootOnly: true });
  const privateKey = parsePem(() => createPrivateKey(Buffer.from(pem)), `${what} ${path}`, 'a private key');
  const publicKey = createPublicKey(privateKey);
  return { keyId: signingKeyId(publicKey), privateKey, publicKey };
}

/** @throws InvalidInput a key cannot be read; or signatures are required and nobody is trusted */
export async function openTrust({ mode, trustedKeys, signingKey }: TrustSettings): Promise<TrustPolicy> {
  const keys = new Map<string, KeyObject>();
  if (signingKey !== undefined) {
    keys.set(signingKey.keyId, signingKey.publicKey);
  }
  for (const path of trustedKeys === undefined ? [] : await trustedFiles(trustedKeys)) {
    const what = 'KYBERNATE_TRUSTED_KEYS:';
    const pem = await readGuardedFile(path, { what, forbiddenMode: PUBLIC_MODE });
    const key = parsePem(() => createPublicKey(Buffer.from(pem)), `${what} ${path}`, 'a public key');
    keys.set(signingKeyId(key), key);
  }
  if (mode === 'required' && keys.size === 0) {
    throw new KybernateError(
      'InvalidInput',
      'KYBERNATE_SIGNATURES is "required", but no key is trusted: set KYBERNATE_TRUSTED_KEYS or KYBERNATE_SIGNING_KEY',
    );
  }
  return { mode, keys };
}

async function trustedFiles(path: string): Promise<string[]> {
  try {
    if (!(await stat(path)).isDirectory()) {
      return [path];
    }
    const names = await readdir(path);
    return names.filter((name) => name.endsWith('.pem')).map((name) => join(path, name));
  } catch (error) {
    throw new KybernateError('InvalidInput', `KYBERNATE_TRUSTED_KEYS: ${path}: ${messageOf(error)}`, { cause: error });
  }
}

function parsePem(parse: () => KeyObject, where: string, what: string): KeyObject {
  let key: KeyObject | undefined;
  try {
    key = parse();
  } catch {
    // The reason may quote the content; that it is none is all a user needs.
    key = undefined;
  }
  if (key?.asymmetricKeyType !== 'ed25519') {
    throw new KybernateError(
      'InvalidInput',
      `${where} is not ${what} of Ed25519 in PEM; see "kybernate keys generate"`,
    );
  }
  return key;
}

export function signStatement(statement: SignedStatement, { keyId, privateKey }: SigningKey): SignatureFile {
  const signature = sign(null, statementBytes(statement, keyId), privateKey).toString('base64');
  return { version: SIGNATURE_VERSION, statement, signatures: [{ algorithm: 'ed25519', keyId, signature }] };
}

/**
 * Signs a checkpoint that is about to be committed: manifest.json is there, metadata.json will have this text.
 * Crash: a signature beside no metadata; the next commit writes another.
 * @throws CheckpointCorrupt the manifest cannot be read
 */
export async function signDirectory(dir: string, metadataText: string, key: SigningKey): Promise<void> {
  const statement = statementOf(await readFile(join(dir, OWN_FILES.manifest)), metadataText, dir);
  await writeFileDurably(join(dir, OWN_FILES.signature), encodeSignature(signStatement(statement, key)));
}

/** What the two texts say, for a signature to be compared with. @throws CheckpointCorrupt */
export function statementOf(listText: Uint8Array, metadataText: string, where: string): SignedStatement {
  const { merkleRoot, totalBytes } = parseManifest(Buffer.from(listText).toString('utf8'), where);
  const { checkpointId } = parseMetadata(metadataText, where);
  const metadataDigest = hexDigestOf(Buffer.from(metadataText));
  return { checkpointId, merkleRoot, totalBytes, filesDigest: hexDigestOf(listText), metadataDigest };
}

/** The signature of a directory; undefined when there is none. @throws CheckpointCorrupt */
export async function readSignature(dir: string): Promise<SignatureFile | undefined> {
  const path = join(dir, OWN_FILES.signature);
  try {
    return parseJson(signatureFile, await readFile(path, 'utf8'), path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

/**
 * Checks who vouches for a committed directory, before anything in it is used. Content is not read.
 * @throws SignatureInvalid; CheckpointCorrupt
 */
export async function checkDirectorySignature(dir: string, trust: TrustPolicy, op: Op): Promise<void> {
  if (trust.mode === 'off') {
    return;
  }
  const listText = await readFile(join(dir, OWN_FILES.manifest));
  const statement = statementOf(listText, await readFile(join(dir, METADATA_FILE), 'utf8'), dir);
  checkSignature(trust, { statement, signature: await signatureOrInvalid(dir), where: dir }, op);
}

async function signatureOrInvalid(dir: string): Promise<SignatureFile | undefined> {
  try {
    return await readSignature(dir);
  } catch (error) {
    throw isKybernateError(error, 'CheckpointCorrupt')
      ? new KybernateError('SignatureInvalid', error.message, { cause: error })
      : error;
  }
}

/**
 * @param claim.statement what the bytes at hand say
 * @returns whether a key that is trusted has signed
 * @throws SignatureInvalid naming `where`, what differs or which keys have signed
 */
export function checkSignature(
  trust: TrustPolicy,
  claim: {
    readonly statement: SignedStatement;
    readonly signature: SignatureFile | undefined;
    readonly where: string;
  },
  op: Pick<Op, 'log'>,
): boolean {
  const { statement, signature, where } = claim;
  if (trust.mode === 'off') {
    return false;
  }
  const signers = signature?.signatures ?? [];
  if (signature === undefined || signers.length === 0) {
    if (trust.mode === 'required') {
      throw invalid(`${where} is not signed; this node accepts signed checkpoints only`, {
        trusted: [...trust.keys.keys()],
      });
    }
    return false;
  }
  const differs = (Object.keys(statement) as Array<keyof SignedStatement>).filter(
    (field) => statement[field] !== signature.statement[field],
  );
  if (differs.length > 0) {
    const fields = differs.map((field) => `${field} ${statement[field]}, signed ${signature.statement[field]}`);
    throw invalid(`${where} is not what was signed: ${fields.join('; ')}`, { differs });
  }
  const known = signers.filter(({ keyId }) => trust.keys.has(keyId));
  const wrong = known.filter(({ keyId, signature: text }) => {
    const key = trust.keys.get(keyId);
    return key === undefined || !verify(null, statementBytes(statement, keyId), key, Buffer.from(text, 'base64'));
  });
  const keyIds = signers.map(({ keyId }) => keyId);
  if (wrong.length > 0) {
    throw invalid(`${where} has a forged signature of key ${wrong[0]?.keyId ?? ''}`, { signedBy: keyIds });
  }
  if (known.length > 0) {
    return true;
  }
  if (trust.mode === 'required') {
    throw invalid(`${where} is signed by ${keyIds.join(', ')}, which this node does not trust`, {
      signedBy: keyIds,
      trusted: [...trust.keys.keys()],
    });
  }
  if (trust.keys.size > 0) {
    op.log.warn({ where, signedBy: keyIds }, 'signed by keys that this node does not know');
  }
  return false;
}

function invalid(message: string, details: Readonly<Record<string, unknown>>): KybernateError {
  return new KybernateError('SignatureInvalid', `${message}; nothing of it was used`, { details });
}
