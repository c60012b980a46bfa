/* Reads the JSON report of one vitest project. */
import { stripVTControlCharacters } from 'node:util';

/** Of a failure: enough for a value that is not what was expected. */
const MESSAGE_LINES = 4;

export interface Tally {
  readonly passed: number;
  /** `project › file › title` */
  readonly skipped: readonly string[];
  /** the same, and below it the first lines of what went wrong, each try's */
  readonly failures: readonly string[];
}

interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

/**
 * Counts what passed, failed and was skipped. What went wrong outside a test counts once: a file that does not load, a
 * global set-up or an unhandled error (exit code without a failed test), a report that is missing.
 * @param text the report, undefined when there is none
 * @param short makes a file's path short for the title
 */
export function readReport(
  project: string,
  exitCode: number,
  text: string | undefined,
  short: (file: string) => string,
): Tally {
  if (text === undefined) {
    return { passed: 0, skipped: [], failures: [`${project}: ended with ${exitCode} and without a report`] };
  }
  const report = JSON.parse(text) as Report;
  const failures: string[] = [];
  const skipped: string[] = [];
  let passed = 0;
  for (const file of report.testResults) {
    const before = failures.length;
    for (const test of file.assertionResults) {
      const title = `${project} › ${short(file.name)} › ${test.fullName}`;
      if (test.status === 'passed') {
        passed += 1;
      } else if (test.status === 'failed') {
        failures.push([title, ...(test.failureMessages ?? []).flatMap(firstLines)].join('\n      '));
      } else {
        skipped.push(title);
      }
    }
    if (file.status === 'failed' && failures.length === before) {
      failures.push(`${project} › ${short(file.name)}: ${file.message?.split('\n')[0] ?? 'the file failed'}`);
    }
  }
  if (exitCode !== 0 && failures.length === 0) {
    failures.push(`${project}: ended with ${exitCode}, though no test failed`);
  }
  return { passed, skipped, failures };
}

/** An error's text as vitest reports it: the message and, below, where. */
function firstLines(message: string): string[] {
  const lines = stripVTControlCharacters(message).split('\n');
  const stack = lines.findIndex((line) => /^ +at /.test(line));
  // The line that called is worth as much as the message.
  return [
    ...lines.slice(0, stack === -1 ? undefined : stack).slice(0, MESSAGE_LINES),
    ...lines.slice(stack, stack + 1),
  ];
}
