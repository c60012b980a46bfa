/* Reads the JSON report of one vitest project. */

export interface Tally {
  readonly passed: number;
  /** `project › file › title` */
  readonly skipped: readonly string[];
  readonly failures: readonly string[];
}

interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
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
        failures.push(title);
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
