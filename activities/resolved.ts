import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { OlderInput, OlderResult, ResolveResult } from '../core/contract/restore.ts';

/** What the workflow is told of a checkpoint: references and sizes, never the metadata itself. */
export function resolvedFrom(from: ResolveResult['from'], metadata: Metadata): ResolveResult {
  const { namespace, id, docker } = metadata.container;
  return {
    from,
    totalBytes: metadata.sizes.totalBytes,
    kind: metadata.process === undefined ? 'container' : 'processes',
    merkleRoot: metadata.merkleRoot,
    sourceContainer: { namespace, id },
    ...(docker === undefined ? {} : { dockerName: docker.name }),
    sourceNode: metadata.node.name,
    createdAt: metadata.createdAt,
    gpuProcesses: metadata.gpuProcesses.length,
  };
}

interface Listed {
  readonly checkpointId: string;
  readonly summary: Pick<Metadata, 'createdAt'> & {
    readonly container: Pick<Metadata['container'], 'id' | 'namespace'>;
    readonly node: Pick<Metadata['node'], 'name'>;
  };
}

/** As many as a restore would try. */
const MAX_OLDER = 5;

/** Of one container, the newest first; on another node the same name is another container's. */
export function olderOf(listed: readonly Listed[], { container, sourceNode, before }: OlderInput): OlderResult {
  const checkpoints = listed
    .filter(({ summary }) => summary.node.name === sourceNode && summary.createdAt < before)
    .filter(({ summary: { container: own } }) => own.id === container.id && own.namespace === container.namespace)
    .map(({ checkpointId, summary: { createdAt } }) => ({ checkpointId, createdAt }))
    .sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1))
    .slice(0, MAX_OLDER);
  return { checkpoints };
}
