/* The end of a restore through Docker: what it made there goes, or what it kept for its undo does. */
import { LABELS } from '../../core/oci/annotations.ts';
import type { NodeDeps } from '../node-deps.ts';
import { removeWish } from '../restore-wishes.ts';
import { bringBackLayer, dropLayer, holderOf, isAside, letLayerGo } from './layer.ts';
import { requireDocker } from './source.ts';

export interface DockerTraces {
  readonly name: string;
  /** absent: Docker had not told it yet */
  readonly id?: string;
  /** of the source, whose files are set aside; absent for a container that the operation made, and for a cold start */
  readonly upperDir?: string;
  /** of a container that the operation made, held while files are restored into it */
  readonly madeUpperDir?: string;
  /** Docker was asked to start it, so what runs in it is the operation's; known of this boot alone */
  readonly started?: true;
}

/**
 * The undo: a container that the operation made is removed; the source is as it was before. Idempotent.
 * @param rebooted the traces are those of a note: the processes ended with the node, and what runs since is not ours
 * @throws RuntimeUnavailable no daemon answers, Internal it does not end; call it again
 */
export async function removeFromDocker(
  deps: NodeDeps,
  operationId: string,
  traces: DockerTraces,
  rebooted: boolean,
): Promise<void> {
  const docker = requireDocker(deps);
  const { id, name, upperDir, started } = traces;
  const found = await docker.container(id ?? name);
  if (found?.Config.Labels?.[LABELS.operation] === operationId) {
    removeWish(deps.settings.runDir, found.Id);
    await docker.removeContainer(found.Id);
    return;
  }
  if (id === undefined) {
    return;
  }
  removeWish(deps.settings.runDir, id);
  if (rebooted && isFinishedInDocker(traces)) {
    keepInDocker(deps.settings, operationId, traces);
    return;
  }
  const touched = upperDir !== undefined && (holderOf(upperDir) === operationId || isAside(upperDir, operationId));
  if (touched || started === true) {
    await docker.killContainer(id);
  }
  if (touched) {
    await bringBackLayer(upperDir, operationId);
  }
}

/** Of the source, after a reboot: its files are whole, those of before or those of the restore, since nobody holds them. */
export function isFinishedInDocker({ upperDir }: DockerTraces): boolean {
  return upperDir !== undefined && holderOf(upperDir) === undefined;
}

/**
 * The processes run: Docker may start the container again, also after a reboot, and starts it afresh. The files of before
 * stay aside until `keepInDocker`. Idempotent.
 */
export function settleInDocker({ runDir }: Pick<NodeDeps['settings'], 'runDir'>, traces: DockerTraces): void {
  const { id, upperDir, madeUpperDir } = traces;
  if (id !== undefined) {
    removeWish(runDir, id);
  }
  for (const layer of [upperDir, madeUpperDir]) {
    if (layer !== undefined) {
      letLayerGo(layer);
    }
  }
}

/** The processes run and stay. Idempotent. */
export function keepInDocker(
  settings: Pick<NodeDeps['settings'], 'runDir'>,
  operationId: string,
  traces: DockerTraces,
): void {
  settleInDocker(settings, traces);
  if (traces.upperDir !== undefined) {
    dropLayer(traces.upperDir, operationId);
  }
}
