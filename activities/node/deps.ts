import type { NodeDeps } from '../../engine/node-deps.ts';
import type { LocalCatalog } from '../../store/local-catalog.ts';

export interface NodeActivityDeps {
  readonly node: NodeDeps;
  /** the committed checkpoints of this node */
  readonly catalog: LocalCatalog;
  /** URL of the store, when there is one */
  readonly storeUrl?: string;
}
