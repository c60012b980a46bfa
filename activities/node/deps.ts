import type { NodeDeps } from '../../engine/node-deps.ts';
import type { Backend } from '../../store/backend/backend.ts';
import type { SigningKey, TrustPolicy } from '../../store/crypto/signing.ts';
import type { DataExtents } from '../../store/digest-file.ts';
import type { LocalCatalog } from '../../store/local-catalog.ts';

export interface NodeActivityDeps {
  readonly node: NodeDeps;
  /** the committed checkpoints of this node */
  readonly catalog: LocalCatalog;
  /** finds holes of files, which are then not read; absent: everything is read */
  readonly dataExtents?: DataExtents;
  /** signs what is committed here; absent: nothing is signed */
  readonly signingKey?: SigningKey;
  /** whose signatures count; absent: they are not looked at */
  readonly trust?: TrustPolicy;
  /** where the kubelet's checkpoint API leaves its archives; absent: none is imported */
  readonly kubeletCheckpoints?: string;
  /** the store, through the sidecar of this node; throws StorageUnavailable while none answers */
  readonly backend: () => Promise<Backend>;
}
