/*
 * What other nodes have, asked of their workers by the workflow `listCopies`. Which nodes there are nobody keeps: those
 * are asked that operations named lately, and those on which known checkpoints were taken.
 */
import type { ListCopiesResult } from '../core/contract/list-copies.ts';
import { messageOf } from '../core/errors.ts';
import type { Operations } from './operation.ts';

/** A node that does not take the question within this time is told as one that did not answer. */
const PICKUP_MS = 5000;
/** Without a control worker nobody takes up the question at all. */
const ANSWER_MS = 15_000;
const AT_ONCE = 50;

const UNANSWERED = `no answer within ${ANSWER_MS / 1000} s; look whether a control worker runs: kybernate doctor`;

/**
 * @param problems gets a line for every node that did not answer, and for what an answer lacks
 * @returns the answers, in the order of `nodes`
 */
export async function askNodes(
  operations: Operations,
  nodes: readonly string[],
  problems: string[],
): Promise<ListCopiesResult[]> {
  const answers = new Map<string, ListCopiesResult>();
  const left = [...nodes];
  const ask = async (): Promise<void> => {
    for (let node = left.shift(); node !== undefined; node = left.shift()) {
      try {
        const operation = await operations.listCopies(
          { node, timeouts: { nodePickupMs: PICKUP_MS } },
          { executionTimeoutMs: ANSWER_MS },
        );
        answers.set(node, await operation.result());
      } catch (error) {
        // One node that is away, or whose worker is older, must not hide what the others have.
        problems.push(`what ${node} has is not shown: ${isTimedOut(error) ? UNANSWERED : messageOf(error)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, ask));
  const answered = nodes.flatMap((node) => answers.get(node) ?? []);
  for (const { node, more, damaged } of answered) {
    problems.push(...damaged.map(({ checkpointId, reason }) => `${checkpointId} on ${node}: ${reason}`));
    if (more > 0) {
      problems.push(`${node} has ${more} older copies that are not shown`);
    }
  }
  return answered;
}

/** By its name: Temporal's client is loaded by those commands alone that connect to it. */
function isTimedOut(error: unknown): boolean {
  return error instanceof Error && error.cause instanceof Error && error.cause.name === 'TimeoutFailure';
}
