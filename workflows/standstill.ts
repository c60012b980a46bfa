import type { CheckpointInput } from '../core/contract/checkpoint.ts';
import { planStandstill } from '../core/contract/liveness.ts';
import { findingDetails, problem } from '../core/preflight.ts';
import { failure } from './failures.ts';

/**
 * How long the source may stand still. Asked before any step: what the input says cannot become right.
 * @param what the source and its node, for the message
 * @throws Incompatible a liveness probe allows less
 */
export function checkStandstill(
  input: CheckpointInput,
  what: string,
): { readonly freezeBudgetMs: number; readonly warnings: readonly string[] } {
  const { freezeBudgetMs, refusal, warning } = planStandstill(input);
  if (refusal !== undefined) {
    throw failure(
      'Incompatible',
      `${what} cannot be checkpointed: ${refusal}; it was not touched`,
      findingDetails([problem('liveness-probe', refusal)]),
    );
  }
  return { freezeBudgetMs, warnings: warning === undefined ? [] : [warning] };
}
