/*
 * Checkpoints a container and restores it, from code: what an operator or a scheduler would do.
 *
 *   eval "$(cli/kybernate up --env)"
 *   ctr run --detach --null-io docker.io/kybernate/redis:1 redis-1
 *   node_modules/.bin/node examples/checkpoint-from-code/main.ts redis-1
 *
 * The last line on stdout is a JSON object with the ids of the checkpoint and of the new container.
 */
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { createKybernateClient, isKybernateError } from '../../client/index.ts';
import type { OperationHandle } from '../../client/index.ts';

/** Prints each phase once. Progress is a courtesy: the operation goes on whether or not anybody looks. */
async function tell(operation: OperationHandle<unknown>, done: AbortSignal): Promise<void> {
  let phase: string | undefined;
  while (!done.aborted) {
    const progress = await operation.progress();
    if (progress !== undefined && progress.phase !== phase) {
      phase = progress.phase;
      console.error(`${operation.workflowId}: ${phase}`);
    }
    // Woken by the end of the operation.
    await sleep(200, undefined, { signal: done }).catch(() => undefined);
  }
}

async function resultOf<Result>(operation: OperationHandle<Result>): Promise<Result> {
  const done = new AbortController();
  const telling = tell(operation, done.signal);
  try {
    return await operation.result();
  } finally {
    done.abort();
    await telling;
  }
}

async function main(containerId: string | undefined): Promise<void> {
  if (containerId === undefined) {
    throw new Error('usage: main.ts <container id>');
  }
  const node = process.env['KYBERNATE_NODE'] ?? hostname().toLowerCase();
  // As ctr reads it.
  const container = { id: containerId, namespace: process.env['CONTAINERD_NAMESPACE'] ?? 'default' };
  // TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and temporal.toml say where.
  const kybernate = await createKybernateClient();
  try {
    // The generation makes the call idempotent: the same wish again joins the operation, it starts no second one.
    const generation = `example-${String(process.pid)}`;
    const checkpoint = await resultOf(
      await kybernate.checkpoint(
        { node, container, durability: 'verified', labels: { made: 'from-code' } },
        { generation },
      ),
    );
    console.error(
      `stood still for ${checkpoint.freezeMs.toFixed(1)} ms; ${String(checkpoint.bytes.stored)} bytes sent`,
    );

    const { checkpointId } = checkpoint;
    const restore = await resultOf(await kybernate.restore({ node, checkpointId }, { generation }));
    console.log(JSON.stringify({ checkpointId, container: restore.container, restoreMs: restore.restoreMs }));
  } finally {
    await kybernate.close();
  }
}

try {
  await main(process.argv[2]);
} catch (error) {
  // The type says what to do next; docs/errors.md lists them all. Anything else is a bug or a server that is away.
  if (!isKybernateError(error)) {
    throw error;
  }
  console.error(`${error.type}: ${error.message}`);
  process.exitCode = 1;
}
