/* From a started operation to what the user sees: its progress, its result, or the line that says how to find it. */
import { EXIT_CANCELLED } from '../core/errors.ts';
import type { Cli } from './cli.ts';
import { detachedText, follow } from './follow.ts';
import type { Operation, Operations } from './operation.ts';
import type { Output } from './output.ts';
import type { Terminal } from './terminal.ts';
import { createProgressPainter, createSilentPainter } from './progress.ts';

const POLL_TERMINAL_MS = 250;
const POLL_PLAIN_MS = 1_000;
/** An operation that a worker has taken answers within a second. */
const UNSERVED_MS = 10_000;

export interface RunOptions<Result> {
  readonly output: Output;
  /** first line of the progress: what is done to what, and where */
  readonly title: string;
  /** do not wait for the end */
  readonly detach?: boolean | undefined;
  /** result → text for people */
  readonly render: (result: Result) => string;
  /** of a result that is not what one hopes for; absent: 0 */
  readonly exitCode?: (result: Result) => number | undefined;
}

/**
 * Starts or finds an operation, waits for it and prints its result. Prints the workflow id first: whatever happens to this
 * process, the operation can be found again.
 * @throws what the operation failed with; TemporalUnreachable
 */
export async function runOperation<Result>(
  cli: Cli,
  begin: (operations: Operations) => Promise<Operation<Result>>,
  options: RunOptions<Result>,
): Promise<void> {
  const operations = await cli.connect();
  try {
    await followToEnd(cli, operations, await begin(operations), options);
  } finally {
    await operations.close();
  }
}

async function followToEnd<Result>(
  cli: Cli,
  operations: Operations,
  operation: Operation<Result>,
  options: RunOptions<Result>,
): Promise<void> {
  const { output } = options;
  const reference = { workflowId: operation.workflowId, ...(operation.runId && { runId: operation.runId }) };
  const link = webLink(cli.config().uiUrl, operations.namespace, operation);
  if (options.detach === true) {
    output.result({ ...reference, detached: true }, () =>
      [`started ${operation.workflowId}`, ...(link === undefined ? [] : [`  Web UI:    ${link}`])]
        .concat(detachedText(operation.workflowId, false).split('\n').slice(1))
        .join('\n'),
    );
    return;
  }
  const { address, namespace } = operations;
  // Another server than that of the node's worker takes the operation too, and nobody works on it.
  const server = address === undefined ? '' : `\nTemporal ${address}, namespace ${namespace}`;
  output.note(`workflow ${operation.workflowId}${server}${link === undefined ? '' : `\nWeb UI   ${link}`}`);
  const stream = cli.streams.stderr;
  const followed = await follow(operation, {
    painter: output.json
      ? createSilentPainter()
      : createProgressPainter({ stream, title: options.title, now: Date.now }),
    // Nobody is asked on behalf of a program that reads JSON.
    terminal: output.json ? withoutPerson(cli.terminal) : cli.terminal,
    note: output.note,
    unserved: { afterMs: UNSERVED_MS, look: () => unservedText(operations, operation) },
    pollMs: stream.isTTY === true ? POLL_TERMINAL_MS : POLL_PLAIN_MS,
  });
  if (followed.kind === 'detached') {
    output.result({ ...reference, detached: true }, () => '');
    cli.setExitCode(EXIT_CANCELLED);
    return;
  }
  const { result } = followed;
  // Which operation it was stands beside what it did.
  output.result(typeof result === 'object' ? { ...reference, ...result } : result, () => options.render(result));
  const exitCode = options.exitCode?.(result);
  if (exitCode !== undefined) {
    cli.setExitCode(exitCode);
  }
}

async function unservedText(operations: Operations, operation: Operation<unknown>): Promise<string | undefined> {
  const { address, namespace, controlWorkers } = operations;
  if (controlWorkers === undefined || (await controlWorkers(operation)) > 0) {
    return undefined;
  }
  return (
    `no control worker polls ${address ?? 'the Temporal server'}, namespace ${namespace}: start one ` +
    '(`kybernate worker control`), or set the variables of the right server (eval "$(kybernate up --env)"); the ' +
    'operation waits for it'
  );
}

function withoutPerson(terminal: Terminal): Terminal {
  return { ...terminal, interactive: false };
}

/** Where the Web UI shows the operation; undefined when nobody said where the Web UI is. */
export function webLink(
  uiUrl: string | undefined,
  namespace: string,
  operation: Pick<Operation<unknown>, 'workflowId' | 'runId'>,
): string | undefined {
  if (uiUrl === undefined) {
    return undefined;
  }
  const path = [
    'namespaces',
    namespace,
    'workflows',
    operation.workflowId,
    ...(operation.runId ? [operation.runId] : []),
  ];
  return `${uiUrl}/${path.map((part) => encodeURIComponent(part)).join('/')}`;
}
