/*
 * node tools/test-summary.ts [project ...]: every check and every vitest project, one after the other, and one sum of
 * both. A project whose set-up fails or that ends without a report counts as a failure: nothing is passed by not
 * running. The last line is always `N passed, N failed`.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

import { CHECK_STEPS, ROOT, runCheck, TOOL_ENV } from './check-steps.ts';
import { readReport, type Tally } from './test-report.ts';

const PROJECTS = ['unit', 'temporal', 'system'];

async function runChecks(): Promise<Tally> {
  const failures: string[] = [];
  for (const step of CHECK_STEPS) {
    const { ok, seconds, output } = await runCheck(step);
    console.log(`${ok ? 'ok    ' : 'FAILED'}  ${step.name} (${seconds} s)${ok ? '' : `\n${output}`}`);
    if (!ok) {
      failures.push(`check: ${step.name}`);
    }
  }
  return { passed: CHECK_STEPS.length - failures.length, skipped: [], failures };
}

/** Runs one project; its own output goes to ours. */
async function runProject(project: string, reportFile: string): Promise<Tally> {
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`];
  const vitest = join(ROOT, 'node_modules', '.bin', 'vitest');
  const exitCode = await new Promise<number>((resolve) => {
    const child = spawn(vitest, ['run', '--project', project, ...reporters], {
      cwd: ROOT,
      env: TOOL_ENV,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    child.once('error', () => resolve(1));
    child.once('close', (code) => resolve(code ?? 1));
  });
  let text: string | undefined;
  try {
    text = readFileSync(reportFile, 'utf8');
  } catch {
    // No report: vitest ended before its first test.
    text = undefined;
  }
  return readReport(project, exitCode, text, (file) => relative(ROOT, file));
}

async function main(projects: readonly string[]): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-report-'));
  const tallies: Tally[] = [];
  try {
    tallies.push(await runChecks());
    for (const project of projects) {
      console.log(`\n== ${project}`);
      tallies.push(await runProject(project, join(dir, `${project}.json`)));
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  const failures = tallies.flatMap((tally) => tally.failures);
  const skipped = tallies.flatMap((tally) => tally.skipped);
  const passed = tallies.reduce((sum, tally) => sum + tally.passed, 0);
  if (failures.length > 0) {
    console.log(`\nfailed:\n${failures.map((title) => `  ${title}`).join('\n')}`);
  }
  if (skipped.length > 0) {
    console.log(`\nskipped:\n${skipped.map((title) => `  ${title}`).join('\n')}`);
  }
  console.log(`\n${passed} passed, ${failures.length} failed`);
  process.exitCode = failures.length === 0 ? 0 : 1;
}

const chosen = process.argv.slice(2);
await main(chosen.length > 0 ? chosen : PROJECTS);
