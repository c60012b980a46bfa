/* Who has vouched for an archive, looked at before a file of it is made. */
import { signatureFile } from '../../core/checkpoint/signature.ts';
import { parseJson } from '../../core/checkpoint/manifest.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { checkSignature, type TrustPolicy } from '../crypto/signing.ts';
import type { AnyImport } from './any-archive.ts';

/** Of an archive of ours. Throws SignatureInvalid for what nobody trusted has signed, as far as `trust` asks for it. */
export function acceptSigned(trust: TrustPolicy, op: Pick<Op, 'log'>): NonNullable<AnyImport['accept']> {
  return ({ checkpointId, manifest, signatureText, filesDigest, metadataDigest }) => {
    const { merkleRoot, totalBytes } = manifest;
    const where = `the archive of ${checkpointId}`;
    const signature = signatureText === undefined ? undefined : parseJson(signatureFile, signatureText, where);
    const statement = { checkpointId, merkleRoot, totalBytes, filesDigest, metadataDigest };
    checkSignature(trust, { statement, signature, where }, op);
  };
}

/** An archive of another engine has no signature that could be checked. Throws SignatureInvalid where one is required. */
export function acceptUnsigned(mode: TrustPolicy['mode']): AnyImport['acceptForeign'] {
  return (where) => {
    if (mode === 'required') {
      throw new KybernateError(
        'SignatureInvalid',
        `${where} is signed by nobody, and KYBERNATE_SIGNATURES=required; nothing was imported`,
      );
    }
  };
}
