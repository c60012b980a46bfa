/* What the store asks of its keys. vault.ts keeps them in the store itself, wrapped; a backend without any is plain. */

/** Seals with a key that was made for this writer: nobody else ever seals with it, so a counter makes every nonce. */
export interface Sealer {
  readonly keyId: string;
  /**
   * @param context what the bytes are and where they belong: authenticated, not stored
   * @param into memory for the result, which is a view of it then; at least `SEAL_BYTES` longer than `plain`
   */
  seal(context: Uint8Array, plain: Uint8Array, into?: Uint8Array): Uint8Array;
}

export interface Opener {
  readonly keyId: string;
  /** undefined: a bit of the bytes, their context or the key is another one */
  open(context: Uint8Array, sealed: Uint8Array): Uint8Array | undefined;
}

/** From digests of content to addresses in packs. */
export interface AddressKey {
  readonly keyId: string;
  addressOf(digest: Uint8Array): Uint8Array;
}

/** Keys of one store. Every call that reads one throws KeyUnavailable, naming the key, when it cannot be unwrapped. */
export interface StoreKeys {
  /** id of the key-encryption key that wraps new keys */
  readonly wrappedBy: string;
  /** The address key that writers of this store use; the first writer makes it. */
  writersAddressKey(signal: AbortSignal): Promise<AddressKey>;
  addressKey(id: string, signal: AbortSignal): Promise<AddressKey>;
  /** A new data key, stored before it is returned. */
  newDataKey(signal: AbortSignal): Promise<Sealer>;
  dataKey(id: string, signal: AbortSignal): Promise<Opener>;
}
