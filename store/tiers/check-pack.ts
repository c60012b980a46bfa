import { decodePackTail } from '../../core/pack/pack.ts';
import { KybernateError } from '../../core/errors.ts';
import { digestOf } from '../digest.ts';

/**
 * Checks what of a pack can be checked without its checkpoint: index, footer, and that the bodies are as long as they
 * say. Readers check every chunk by its digest in any case.
 * @throws CheckpointCorrupt
 */
export function checkPack(pack: string, bytes: Uint8Array): void {
  const { packBytes } = decodePackTail(bytes, digestOf, `pack ${pack}`);
  if (packBytes !== bytes.length) {
    throw new KybernateError('CheckpointCorrupt', `pack ${pack} has ${bytes.length} bytes instead of ${packBytes}`);
  }
}
