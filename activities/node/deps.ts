import type { NodeDeps } from '../../engine/node-deps.ts';
import type { SigningKey, TrustPolicy } from '../../store/crypto/signing.ts';
import type { LocalCatalog } from '../../store/local-catalog.ts';

export interface NodeActivityDeps {
  readonly node: NodeDeps;
  /** the committed checkpoints of this node */
  readonly catalog: LocalCatalog;
  /** signs what is committed here; absent: nothing is signed */
  readonly signingKey?: SigningKey;
  /** whose signatures count; absent: they are not looked at */
  readonly trust?: TrustPolicy;
  /** URL of the store, when there is one */
  readonly storeUrl?: string;
}
