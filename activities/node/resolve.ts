import type { OlderInput, OlderResult, ResolveInput } from '../../core/contract/restore.ts';
import { isKybernateError, KybernateError } from '../../core/errors.ts';
import { resolveSource } from '../../engine/restore-source.ts';
import type { Resolved } from '../contract.ts';
import { olderOf, resolvedFrom } from '../resolved.ts';
import type { NodeActivityDeps } from './deps.ts';

/** Is it on this node? @throws RestoreRefused, CheckpointCorrupt */
export async function resolveLocal(deps: NodeActivityDeps, input: ResolveInput): Promise<Resolved> {
  if (input.path !== undefined) {
    return resolvePath(deps, input.path, input.unverified);
  }
  if (input.checkpointId === undefined) {
    throw new KybernateError('InvalidInput', 'give either checkpointId or path');
  }
  try {
    const { metadata } = await deps.catalog.get(input.checkpointId);
    return { found: resolvedFrom('local', metadata) };
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return {};
    }
    throw error;
  }
}

/** Damaged ones are left out. */
export async function olderLocal({ catalog }: NodeActivityDeps, input: OlderInput): Promise<OlderResult> {
  const { checkpoints } = await catalog.list();
  return olderOf(
    checkpoints.map(({ checkpointId, metadata }) => ({ checkpointId, summary: metadata })),
    input,
  );
}

async function resolvePath({ node }: NodeActivityDeps, path: string, unverified: boolean): Promise<Resolved> {
  // A path is never fetched: the store is not asked.
  const access = {
    fetchCheckpoint: () => Promise.reject(new KybernateError('InvalidInput', `${path} is not a checkpoint id`)),
  };
  const source = await resolveSource(node.settings, access, { restoreFrom: path, origin: 'annotation', unverified });
  return {
    found: source.metadata === undefined ? { from: 'path', totalBytes: 0 } : resolvedFrom('path', source.metadata),
  };
}
