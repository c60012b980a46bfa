/* The keys of a process: those that wrap the keys of the store, the one that signs, those that are trusted. */
import { join } from 'node:path';
import { runExeca } from '../native/run/run-execa.ts';
import type { Backend } from '../store/backend/backend.ts';
import { openKeyRing, type KeyRing } from '../store/crypto/key-ring.ts';
import { openSeen } from '../store/crypto/seen.ts';
import { openTrust, readSigningKey, type SigningKey, type TrustPolicy } from '../store/crypto/signing.ts';
import { withKeys } from '../store/crypto/vault.ts';
import type { EncryptionConfig, NodeConfig } from './config.ts';

/** @returns undefined when no key is configured: what is written is plain. @throws InvalidInput naming the variable */
export function keyRingOf(config: EncryptionConfig): Promise<KeyRing | undefined> {
  const settings = {
    keyFile: config.KYBERNATE_ENCRYPTION_KEY_FILE,
    key: config.KYBERNATE_ENCRYPTION_KEY,
    keyCommand: config.KYBERNATE_ENCRYPTION_KEY_COMMAND,
    keyCommandId: config.KYBERNATE_ENCRYPTION_KEY_ID,
    oldKeys: config.KYBERNATE_ENCRYPTION_OLD_KEYS,
  };
  return openKeyRing(settings, runExeca);
}

/** The store, with its keys where there are any. */
export function keyed<Place extends Backend>(
  open: () => Promise<Place>,
  ring: KeyRing | undefined,
): () => Promise<Place> {
  return async () => {
    const backend = await open();
    if (ring !== undefined && backend.keys === undefined) {
      withKeys(backend, ring);
    }
    return backend;
  };
}

/** What a node signs with and whom it believes. @throws InvalidInput naming the variable */
export async function signaturesOf(
  config: NodeConfig,
): Promise<{ readonly trust: TrustPolicy; readonly signingKey?: SigningKey }> {
  const { KYBERNATE_SIGNING_KEY: path, KYBERNATE_SIGNATURES: mode, KYBERNATE_TRUSTED_KEYS: trustedKeys } = config;
  const signingKey = path === undefined ? undefined : await readSigningKey(path);
  const policy = await openTrust({ mode, trustedKeys, signingKey });
  const seen = openSeen(join(config.KYBERNATE_STATE_DIR, 'seen.jsonl'));
  // Of what nobody signs nothing is known for sure.
  const trust = mode === 'off' || policy.keys.size === 0 ? policy : { ...policy, seen };
  return { trust, ...(signingKey === undefined ? {} : { signingKey }) };
}
