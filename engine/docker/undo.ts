/* The end of a restore through Docker: what it made there goes, or what it kept for its undo does. */
import { LABELS } from '../../core/oci/annotations.ts';
import type { NodeDeps } from '../node-deps.ts';
import { removeWish } from '../restore-wishes.ts';
import { bringBackLayer, dropLayer } from './layer.ts';
import { requireDocker } from './source.ts';

export interface DockerTraces {
  readonly name: string;
  /** absent: Docker had not told it yet */
  readonly id?: string;
  /** of the source, whose files were set aside; absent for a container that the operation made */
  readonly upperDir?: string;
}

/**
 * The undo: a container that the operation made is removed; the source is as it was before. Idempotent.
 * @throws RuntimeUnavailable no daemon answers, Internal it does not end; call it again
 */
export async function removeFromDocker(deps: NodeDeps, operationId: string, traces: DockerTraces): Promise<void> {
  const docker = requireDocker(deps);
  const { id, name, upperDir } = traces;
  if (upperDir === undefined) {
    const found = await docker.container(id ?? name);
    if (found?.Config.Labels?.[LABELS.operation] === operationId) {
      removeWish(deps.settings.runDir, found.Id);
      await docker.removeContainer(found.Id);
    }
    return;
  }
  if (id !== undefined) {
    removeWish(deps.settings.runDir, id);
    await docker.killContainer(id);
  }
  await bringBackLayer(upperDir, operationId);
}

/** The processes run and stay. Idempotent. */
export function keepInDocker(
  { runDir }: Pick<NodeDeps['settings'], 'runDir'>,
  operationId: string,
  { id, upperDir }: DockerTraces,
): void {
  if (id !== undefined) {
    removeWish(runDir, id);
  }
  if (upperDir !== undefined) {
    dropLayer(upperDir, operationId);
  }
}
