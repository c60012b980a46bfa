/* `kybernate ps`: the operations that run, and those that have ended lately. */
import { Option, type Command } from 'commander';
import type { OperationSummary } from '../../client/list-operations.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, countArgument, durationArgument, jsonOption } from '../options.ts';
import { createOutput, renderTable, terminalWidth, type Column } from '../output.ts';
import { formatDuration, formatTime } from '../units.ts';

interface PsFlags {
  readonly node?: string;
  readonly container?: string;
  readonly running?: boolean;
  readonly since: number;
  readonly limit: number;
  readonly json?: boolean;
}

const DAY_MS = 24 * 3_600_000;

export function addPsCommand(program: Command, cli: Cli): void {
  const command = program
    .command('ps')
    .summary('list operations: those that run, and those that ended lately')
    .description(
      'Lists checkpoints, restores and every other operation of all nodes, newest first, as the Temporal server of this ' +
        'environment knows them. What ended is listed for a day, or as --since says; Temporal forgets it after its retention time. ' +
        'Columns for which a terminal is too narrow are left out; a pipe and --json have all.',
    )
    .option('--node <name>', 'only those of this node')
    .option('--container <name>', 'only those of this container: <id>, or <namespace>/<id>')
    .option('--running', 'only those that have not ended')
    .addOption(
      new Option('--since <duration>', 'what ended longer ago is left out, for example 2h')
        .argParser(durationArgument)
        .default(DAY_MS, '1d'),
    )
    .option('--limit <number>', 'at most so many', countArgument, 100)
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate ps', 'what runs, and what ended since yesterday'],
      ['kybernate ps --running --node gpu-7', 'what a node is busy with'],
      ['kybernate ps --container redis --json', 'the operations of a container, for a program'],
    ],
    exitCodes: exitCodesHelp(['TemporalUnreachable']),
  });
  command.action((flags: PsFlags) => runPs(cli, flags));
}

async function runPs(cli: Cli, { node, container, running, since, limit, ...flags }: PsFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const nowMs = Date.now();
  const connected = await cli.connect();
  try {
    // One more than is shown tells whether there are more.
    const found = await connected.list({
      ...(node === undefined ? {} : { node }),
      ...(container === undefined ? {} : { container }),
      ...(running === true ? { running } : { endedAfter: nowMs - since }),
      limit: limit + 1,
    });
    const operations = found.slice(0, limit);
    output.result({ operations }, () =>
      operations.length === 0 ? 'no operations' : renderOperations(operations, nowMs, terminalWidth(cli.streams)),
    );
    if (found.length > limit) {
      output.note('note: there are more; see --limit');
    }
  } finally {
    await connected.close();
  }
}

export function renderOperations(operations: readonly OperationSummary[], nowMs: number, width?: number): string {
  const columns: Array<Column<OperationSummary>> = [
    { title: 'OPERATION', value: ({ workflowId }) => workflowId },
    // Most ids begin with the type and end with what it is about.
    { title: 'TYPE', value: ({ type }) => type, leaves: 2 },
    { title: 'ABOUT', value: ({ container, checkpointId }) => container ?? checkpointId ?? '-', leaves: 3 },
    { title: 'NODE', value: ({ node }) => node ?? '-', leaves: 4 },
    { title: 'STATE', value: stateOf },
    { title: 'STARTED (UTC)', value: ({ startedAt }) => formatTime(startedAt), leaves: 1 },
    {
      title: 'TOOK',
      value: ({ startedAt, endedAt }) =>
        formatDuration(Math.max(0, (endedAt === undefined ? nowMs : Date.parse(endedAt)) - Date.parse(startedAt))),
      align: 'right',
      leaves: 5,
    },
  ];
  return renderTable(operations, columns, width);
}

/** Where a running one is; how an ended one ended: a terminated workflow could not say it itself. */
function stateOf({ status, phase, outcome }: OperationSummary): string {
  return status === 'RUNNING' ? (phase ?? 'running') : (outcome ?? status.toLowerCase());
}
