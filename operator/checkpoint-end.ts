/*
 * A `Checkpoint` object that is to go: what runs of it is cancelled and waited for, and with `deletionPolicy: Delete` the
 * checkpoint that it has made goes, by the workflow `deleteCheckpoint`. Until that is done the object stays, and its condition
 * says what is in the way; whoever will not wait sets the policy to `Retain`.
 */
import { kubernetesCheckpointSpec, type Condition } from '../core/contract/kubernetes.ts';
import { assertNever } from '../core/errors.ts';
import { objectWorkflowId } from '../core/ids.ts';
import {
  checkpointWorkflowOf,
  defaultCheckpointId,
  FINALIZER,
  type CheckpointObject,
  type Identity,
} from './objects.ts';
import type { OperationState } from './operations.ts';
import { letGo, refOf, writeStatus, type ControllerDeps } from './turn.ts';

const LOOK_MS = 2_000;
/** A removal that was refused is tried again later and later: after a quarter of the time since the deletion was asked for. */
const FIRST_RETRY_MS = 10_000;
const LAST_RETRY_MS = 300_000;

interface Ending {
  readonly deps: ControllerDeps;
  readonly object: CheckpointObject;
  readonly identity: Identity;
}

/** One turn. @returns ms until the next one; undefined: the object may go */
export async function endCheckpoint(
  deps: ControllerDeps,
  object: CheckpointObject,
  identity: Identity,
): Promise<number | undefined> {
  if (!identity.finalizers.includes(FINALIZER)) {
    return undefined;
  }
  const { cluster, operations } = deps;
  const ending: Ending = { deps, object, identity };
  const workflowId = checkpointWorkflowOf(object);
  const state = await operations.look(workflowId);
  if (state.state === 'running') {
    await operations.cancel(workflowId);
    return LOOK_MS;
  }
  const isToGo = specField(object, 'deletionPolicy') === 'Delete';
  if (!isToGo && object.status?.phase === 'Deleting') {
    await operations.cancel(objectWorkflowId('deleteCheckpoint', identity.uid));
  }
  const owned = isToGo && owns(object, state);
  if (owned === 'unknown') {
    return say(ending, { reason: 'NodeUnavailable', message: 'no control worker answers what is there to delete' });
  }
  if (owned) {
    return removeCheckpoint(ending);
  }
  await letGo(cluster, refOf('Checkpoint', identity), object);
  return undefined;
}

/** Only of what the object has made itself: another checkpoint of this id, at which it failed, is not its. */
function owns({ status, spec: raw }: CheckpointObject, state: OperationState): boolean | 'unknown' {
  const isImport = (raw as { source?: unknown } | undefined)?.source !== undefined;
  if (status?.owned !== undefined) {
    return status.owned;
  }
  switch (state.state) {
    case 'completed':
      return !isImport || (state.result as { created?: boolean }).created === true;
    case 'failed':
    case 'cancelled':
    case 'terminated':
      return state.committed === undefined ? 'unknown' : state.committed && !isImport;
    case 'running':
    case 'unknown':
      return false;
    default:
      return assertNever(state);
  }
}

async function removeCheckpoint(ending: Ending): Promise<number | undefined> {
  const { deps, object, identity } = ending;
  const { cluster, operations, now } = deps;
  const workflowId = objectWorkflowId('deleteCheckpoint', identity.uid);
  const state = await operations.look(workflowId);
  switch (state.state) {
    case 'running':
      // What was in the way at the last try stays told until it is known to be gone.
      return LOOK_MS;
    case 'completed':
      await letGo(cluster, refOf('Checkpoint', identity), object);
      return undefined;
    case 'failed': {
      await say(ending, { reason: state.type, message: state.message });
      const waitedMs = now().getTime() - (identity.deletedAt ?? now()).getTime();
      const afterMs = Math.min(LAST_RETRY_MS, Math.max(FIRST_RETRY_MS, waitedMs / 4));
      const leftMs = (state.endedAt ?? now()).getTime() + afterMs - now().getTime();
      return leftMs > 0 ? leftMs : beginRemoval(ending, workflowId);
    }
    case 'cancelled':
    case 'terminated':
    case 'unknown':
      return beginRemoval(ending, workflowId);
    default:
      return assertNever(state);
  }
}

async function beginRemoval(ending: Ending, workflowId: string): Promise<number> {
  const { deps, object, identity } = ending;
  const { cluster, operations } = deps;
  const checkpointId = checkpointIdOf(object, identity);
  const restore = (await cluster.restores(identity.namespace)).find(
    ({ spec: wish, status }) =>
      status?.phase === 'Restoring' &&
      (status.checkpointId === checkpointId ||
        (wish as { checkpoint?: string } | undefined)?.checkpoint === identity.name),
  );
  if (restore !== undefined) {
    // Its pod may not have come to a node yet: nobody but its object knows that it will want the checkpoint.
    const message = `checkpoint ${checkpointId} was not removed: restore ${restore.metadata?.name} is under way`;
    return say(ending, { reason: 'CheckpointInUse', message });
  }
  const nodes = await nodesWith(ending, checkpointId);
  await operations.startDelete(workflowId, { checkpointId, nodes });
  if (object.status?.phase !== 'Deleting') {
    const where = nodes.length === 0 ? 'the store' : `the store and ${nodes.join(', ')}`;
    await say(ending, { reason: 'Deleting', message: `checkpoint ${checkpointId} goes from ${where}` });
  }
  return LOOK_MS;
}

/** Where it was taken, and where else operations were about it. What a node had that has left the cluster went with it. */
async function nodesWith({ deps, object }: Ending, checkpointId: string): Promise<string[]> {
  const taken = object.status?.node;
  const names = new Set([...(taken === undefined ? [] : [taken]), ...(await deps.operations.nodesOf(checkpointId))]);
  const found: string[] = [];
  for (const name of [...names].sort()) {
    if (await deps.cluster.hasNode(name)) {
      found.push(name);
    }
  }
  return found;
}

function checkpointIdOf(object: CheckpointObject, identity: Identity): string {
  return object.status?.checkpointId ?? specField(object, 'checkpointId') ?? defaultCheckpointId(identity);
}

/** A field as it counts, with its default; undefined where the specification is none. */
function specField(object: CheckpointObject, name: 'deletionPolicy' | 'checkpointId'): string | undefined {
  const parsed = kubernetesCheckpointSpec.safeParse(object.spec);
  return parsed.success ? parsed.data[name] : undefined;
}

async function say(
  { deps, object, identity }: Ending,
  condition: Pick<Condition, 'reason' | 'message'>,
): Promise<number> {
  await writeStatus({
    cluster: deps.cluster,
    ref: refOf('Checkpoint', identity),
    identity,
    now: deps.now(),
    before: object.status,
    change: { phase: 'Deleting' },
    condition: { status: 'False', ...condition },
  });
  return LOOK_MS;
}
