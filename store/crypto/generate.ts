/* New keys, in files that nobody else can read. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { KEY_BYTES } from '../../core/checkpoint/encryption.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { localKey } from './key-ring.ts';
import { signingKeyId } from './signing.ts';

/** @returns the id of the key. @throws InvalidInput when the file exists or cannot be made */
export async function generateEncryptionKey(path: string): Promise<string> {
  const key = randomBytes(KEY_BYTES);
  await writeNew(path, `${key.toString('hex')}\n`, 0o600);
  return localKey(key).id;
}

/** @returns the id of the key. @throws InvalidInput when a file exists or cannot be made; none is left then */
export async function generateSigningKey(secretPath: string, publicPath: string): Promise<string> {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  await writeNew(secretPath, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 0o600);
  try {
    await writeNew(publicPath, publicKey.export({ type: 'spki', format: 'pem' }).toString(), 0o644);
  } catch (error) {
    await rm(secretPath, { force: true });
    throw error;
  }
  return signingKeyId(publicKey);
}

async function writeNew(path: string, content: string, mode: number): Promise<void> {
  try {
    const handle = await open(path, 'wx', mode);
    try {
      await handle.chmod(mode);
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw new KybernateError('InvalidInput', `${path} was not made: ${messageOf(error)}`, { cause: error });
  }
}
