/* A CLI without a process and without Temporal: what it writes is kept, what it starts is recorded. */
import type { Cli } from '../../cli/cli.ts';
import { readCliConfig } from '../../cli/config.ts';
import type { Environment } from '../../cli/config.ts';
import type { Operation, Operations } from '../../cli/operation.ts';
import { createInterrupts } from '../../cli/terminal.ts';
import type { OperationSummary } from '../../client/list-operations.ts';
import type { ListCopiesResult } from '../../core/contract/list-copies.ts';

export interface FakeCli {
  readonly cli: Cli;
  /** the name of the call and its arguments */
  readonly calls: unknown[][];
  stdout(): string;
  /** what was written to standard output as bytes */
  stdoutBytes(): Buffer;
  stderr(): string;
  exitCode(): number | undefined;
  pressCtrlC(): void;
}

export interface FakeCliOptions {
  readonly env?: Environment;
  readonly stdin?: string;
  /** standard input as bytes */
  readonly input?: Uint8Array;
  readonly interactive?: boolean;
  /** default: true */
  readonly isRoot?: boolean;
  /** what a question is answered with; the question stays open without it */
  readonly answer?: string;
  /** what every started operation does; ends at once with {} without it */
  readonly operation?: Partial<Operation<unknown>>;
  /** operations of which Temporal knows */
  readonly operations?: readonly OperationSummary[];
  /** nodes of which Temporal knows */
  readonly nodes?: readonly string[];
  /** what a node answers when it is asked for its copies; throws for one that is away */
  readonly copies?: (node: string) => ListCopiesResult;
}

export function createFakeCli(options: FakeCliOptions = {}): FakeCli {
  const written = { stdout: '', stderr: '' };
  const calls: unknown[][] = [];
  const bytes: Buffer[] = [];
  const interrupts: Array<() => void> = [];
  let exitCode: number | undefined;
  const env = { KYBERNATE_NODE: 'node-a', ...options.env };
  return {
    calls,
    stdout: () => written.stdout,
    stdoutBytes: () => Buffer.concat(bytes),
    stderr: () => written.stderr,
    exitCode: () => exitCode,
    pressCtrlC: () => interrupts.forEach((press) => press()),
    cli: {
      env,
      isRoot: options.isRoot ?? true,
      config: () => readCliConfig(env),
      connect: async () => createFakeOperations(calls, options),
      setExitCode: (code) => {
        exitCode = code;
      },
      streams: {
        stdout: { write: (text) => (written.stdout += text) },
        stderr: { write: (text) => (written.stderr += text) },
      },
      terminal: {
        interactive: options.interactive ?? false,
        listen: () => {
          const made = createInterrupts(() => undefined);
          interrupts.push(made.press);
          return made;
        },
        ask: async (question) => {
          calls.push(['ask', question]);
          return options.answer ?? (await new Promise<string>(() => undefined));
        },
        readAll: async () => options.stdin ?? '',
        input: async function* () {
          yield await Promise.resolve(options.input ?? new Uint8Array());
        },
        write: async (piece) => {
          bytes.push(Buffer.from(piece));
        },
        onStop: () => () => undefined,
      },
    },
  };
}

function createFakeOperations(calls: unknown[][], options: FakeCliOptions): Operations {
  const behaviour = options.operation ?? {};
  function made(workflowId: string): Operation<never> {
    return {
      workflowId,
      runId: 'run-1',
      progress: async () => undefined,
      cancel: async () => {
        calls.push(['cancel', workflowId]);
      },
      release: async () => {
        calls.push(['release', workflowId]);
      },
      ...behaviour,
      result: async () => ((await behaviour.result?.()) ?? {}) as never,
    };
  }
  return {
    namespace: 'default',
    checkpoint: async (request, start) => {
      calls.push(['checkpoint', request, start]);
      return made('checkpoint:x');
    },
    restore: async (request, start) => {
      calls.push(['restore', request, start]);
      return made('restore:x');
    },
    restoreProcess: async (request, start) => {
      calls.push(['restoreProcess', request, start]);
      return made('restore:x');
    },
    rehearse: async (request, start) => {
      calls.push(['rehearse', request, start]);
      return made('rehearse:x');
    },
    verify: async (request, start) => {
      calls.push(['verify', request, start]);
      return made('verifyCheckpoint:x');
    },
    repair: async (request, start) => {
      calls.push(['repair', request, start]);
      return made('repairCheckpoint:x');
    },
    collectGarbage: async (request, start) => {
      calls.push(['collectGarbage', request, start]);
      return made('collectGarbage:x');
    },
    prefetch: async (request, start) => {
      calls.push(['prefetch', request, start]);
      return made('prefetch:x');
    },
    listCopies: async (request, start) => {
      calls.push(['listCopies', request, start]);
      return { ...made('listCopies:x'), result: async () => options.copies?.(request.node) as never };
    },
    list: async (filter) => {
      calls.push(['list', filter]);
      return options.operations ?? [];
    },
    nodes: async () => options.nodes ?? [],
    preflight: async (request, start) => {
      calls.push(['preflight', request, start]);
      return made('preflight:x');
    },
    find: async (workflowId, runId) => {
      calls.push(['find', workflowId, runId]);
      return made(workflowId);
    },
    close: async () => {
      calls.push(['close']);
    },
  };
}
