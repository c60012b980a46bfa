/* The calls of the runtime wrapper as parts of a trace: that which the caller names, else that of the operation's own step. */
import type {
  CompleteRestoreRequest,
  CompleteRestoreResponse,
  PrepareRestoreRequest,
  PrepareRestoreResponse,
} from '../core/contract/restore.ts';
import { pastSpans, span, traceparent, withinSpan, type PastSpan } from '../core/spans.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { readRestore } from '../engine/restore-operation.ts';

type Deps = Pick<NodeDeps, 'settings'>;

/** The wrapper is told its trace. @param told traceparent of the caller */
export function tracedPrepare(
  deps: Deps,
  { operationId }: PrepareRestoreRequest,
  told: string | undefined,
  act: () => Promise<PrepareRestoreResponse>,
): Promise<PrepareRestoreResponse> {
  return traced(deps, { name: 'prepare restore', operationId, told }, async (parent = traceparent()) => {
    const prepared = await act();
    return { ...prepared, ...(parent === undefined ? {} : { traceparent: parent }) };
  });
}

export function tracedComplete(
  deps: Deps,
  word: CompleteRestoreRequest,
  told: string | undefined,
  act: () => Promise<CompleteRestoreResponse>,
): Promise<CompleteRestoreResponse> {
  pastSpans(() => wrapperSpans(word), told);
  return traced(deps, { name: 'complete restore', operationId: word.operationId, told }, act);
}

/** What the wrapper had done before it asked; the asking itself is our own span. */
function wrapperSpans({ spans, outcome, errors }: CompleteRestoreRequest): PastSpan[] {
  const error = outcome === 'restored' ? {} : { error: errors.at(-1) ?? outcome };
  return spans.map((past, at) => ({
    ...past,
    name: `wrapper ${past.name}`,
    ...(at === spans.length - 1 ? error : {}),
  }));
}

/** @param act is given its parent there */
function traced<Answer>(
  { settings }: Deps,
  call: { readonly name: string; readonly operationId: string | undefined; readonly told: string | undefined },
  act: (parent: string | undefined) => Promise<Answer>,
): Promise<Answer> {
  const { name, operationId, told } = call;
  const parent = told ?? (operationId === undefined ? undefined : readRestore(settings, operationId)?.traceparent);
  const fields = operationId === undefined ? {} : { 'kybernate.operation': operationId };
  return withinSpan(parent, () => span(name, fields, () => act(parent)));
}
