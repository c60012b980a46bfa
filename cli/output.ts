/*
 * The only place that writes to the terminal. The result of a command goes to stdout, everything said on the way to
 * stderr. With --json stdout carries exactly one JSON document, the result or `{ "error": ... }`, and stderr nothing.
 */
import { EXIT_OK } from '../core/errors.ts';
import { errorJson, renderError, reportOf } from './exit-codes.ts';
import type { ErrorReport } from './exit-codes.ts';

/** The part of a stream that is used; literal objects in tests. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
}

export interface OutputStreams {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
}

/** What a command says; made once a command by `createOutput`. */
export interface Output {
  readonly json: boolean;
  /** @param human builds the text for people; not called with --json */
  readonly result: (value: unknown, human: () => string) => void;
  /** a remark on the way, to stderr; silent with --json */
  readonly note: (text: string) => void;
  readonly streams: OutputStreams;
}

export function createOutput(streams: OutputStreams, options: { readonly json?: boolean | undefined }): Output {
  const json = options.json === true;
  return {
    json,
    streams,
    result: (value, human) => {
      const text = json ? JSON.stringify(value, null, 2) : human();
      streams.stdout.write(text === '' ? '' : `${text}\n`);
    },
    note: (text) => {
      if (!json) {
        streams.stderr.write(`${text}\n`);
      }
    },
  };
}

/**
 * @param command as `renderError`
 * @returns the exit code
 */
export function writeError(streams: OutputStreams, error: unknown, json: boolean, command?: string): number {
  const report: ErrorReport = reportOf(error);
  if (report.exitCode === EXIT_OK) {
    return EXIT_OK;
  }
  if (json) {
    streams.stdout.write(`${JSON.stringify(errorJson(report), null, 2)}\n`);
  } else {
    streams.stderr.write(`${renderError(report, command)}\n`);
  }
  return report.exitCode;
}

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  readonly align?: 'left' | 'right';
  /** left out where the terminal is too narrow: 1 first */
  readonly leaves?: number;
}

/** Of the terminal that reads standard output; undefined for a file or a pipe. */
export function terminalWidth({ stdout }: OutputStreams): number | undefined {
  return stdout.isTTY === true ? stdout.columns : undefined;
}

/**
 * Columns two spaces apart, as wide as their widest cell; no cell is cut, so that ids can be copied.
 * @param width what the lines are to fit into, if leaving out columns does it
 */
export function renderTable<Row>(
  rows: readonly Row[],
  columns: ReadonlyArray<Column<Row>>,
  width = Number.POSITIVE_INFINITY,
): string {
  const text = renderColumns(rows, columns);
  const order = columns.map(({ leaves }) => leaves ?? Number.POSITIVE_INFINITY);
  const first = order.indexOf(Math.min(...order));
  const fits = text.split('\n').every((line) => line.length <= width);
  return fits || order[first] === Number.POSITIVE_INFINITY
    ? text
    : renderTable(
        rows,
        columns.filter((_, index) => index !== first),
        width,
      );
}

function renderColumns<Row>(rows: readonly Row[], columns: ReadonlyArray<Column<Row>>): string {
  const cells = [
    columns.map((column) => column.title),
    ...rows.map((row) => columns.map((column) => column.value(row))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]?.length ?? 0)));
  return cells
    .map((line) =>
      line
        .map((cell, index) => {
          const width = widths[index] ?? 0;
          return columns[index]?.align === 'right' ? cell.padStart(width) : cell.padEnd(width);
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `name   value` lines; pairs without a value are left out. */
export function renderPairs(pairs: ReadonlyArray<readonly [name: string, value: string | undefined]>): string {
  const known = pairs.filter((pair): pair is readonly [string, string] => pair[1] !== undefined);
  const width = Math.max(0, ...known.map(([name]) => name.length));
  return known
    .map(([name, value]) => `${name.padEnd(width)}  ${value.replaceAll('\n', `\n${' '.repeat(width + 2)}`)}`)
    .join('\n');
}
