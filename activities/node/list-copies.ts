import type { ListCopiesResult, NodeCopy } from '../../core/contract/list-copies.ts';
import type { LocalCheckpoint } from '../../store/local-catalog.ts';
import { summaryOf } from '../../store/registry.ts';
import type { ListCopiesStepInput } from '../contract.ts';
import type { NodeActivityDeps } from './deps.ts';

/** Together with the copies it must stay far below what a payload of Temporal may have. */
const MAX_DAMAGED = 100;

export async function listCopies(
  { catalog }: Pick<NodeActivityDeps, 'catalog'>,
  { node, limit }: ListCopiesStepInput,
): Promise<ListCopiesResult> {
  const { checkpoints, damaged } = await catalog.list();
  const copies = checkpoints.map(copyOf).sort((left, right) => right.createdAt.localeCompare(left.createdAt));
  return {
    node,
    copies: copies.slice(0, limit),
    more: Math.max(0, copies.length - limit),
    damaged: damaged.slice(0, MAX_DAMAGED),
  };
}

function copyOf({ checkpointId, metadata, uploadPending, path }: LocalCheckpoint): NodeCopy {
  const { createdAt, labels, container, node, sizes } = summaryOf(metadata);
  return {
    checkpointId,
    createdAt,
    labels,
    container,
    takenOn: node.name,
    totalBytes: sizes.totalBytes,
    uploadPending,
    path,
  };
}
