/*
 * node tools/test-summary.ts [project ...]: every check and every vitest project, and one sum of both. The unit tests have
 * the processors to themselves. The others wait most of the time: the last one shows what it does, the rest run beside it
 * and are silent until their end. A project whose set-up fails or that ends without a report counts as a failure: nothing
 * is passed by not running. The last line is always `N passed, N failed`.
 * KYBERNATE_E2E=cached adds the project `kubernetes`, after all others, where set-up has built its programs and a cluster can
 * have a network of its own.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

import { KUBERNETES_PROGRAMS } from '../cli/setup/kubernetes.ts';
import { findProgram } from '../cli/setup/programs.ts';
import { CHECK_STEPS, ROOT, runCheck, TOOL_ENV } from './check-steps.ts';
import { readReport, type Tally } from './test-report.ts';

const PROJECTS = ['unit', 'temporal', 'system'];
/** The format is of one processor, lint and types are of all. */
const CHECKS_AT_ONCE = 2;
/** Needs a network of its own, and the processors: it starts a whole cluster. */
const E2E = 'kubernetes';

async function runChecks(): Promise<Tally> {
  const failures: string[] = [];
  const waiting = [...CHECK_STEPS];
  const work = async (): Promise<void> => {
    for (let step = waiting.shift(); step !== undefined; step = waiting.shift()) {
      const { ok, seconds, output } = await runCheck(step);
      console.log(`${ok ? 'ok    ' : 'FAILED'}  ${step.name} (${seconds} s)${ok ? '' : `\n${output}`}`);
      if (!ok) {
        failures.push(`check: ${step.name}`);
      }
    }
  };
  await Promise.all(Array.from({ length: CHECKS_AT_ONCE }, work));
  return { passed: CHECK_STEPS.length - failures.length, skipped: [], failures };
}

/** Runs one project. @param output `live`: goes to ours as it comes; `atEnd`: in one piece */
async function runProject(project: string, reportFile: string, output: 'live' | 'atEnd'): Promise<Tally> {
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`];
  const vitest = join(ROOT, 'node_modules', '.bin', 'vitest');
  const command = [vitest, 'run', '--project', project, ...reporters];
  const [program = vitest, ...args] = project === E2E ? ['unshare', '--net', ...command] : command;
  const exitCode = await new Promise<number>((resolve) => {
    const child = spawn(program, args, {
      cwd: ROOT,
      env: TOOL_ENV,
      stdio: ['ignore', output === 'live' ? 'inherit' : 'pipe', output === 'live' ? 'inherit' : 'pipe'],
    });
    const pieces: Buffer[] = [];
    child.stdout?.on('data', (piece: Buffer) => pieces.push(piece));
    child.stderr?.on('data', (piece: Buffer) => pieces.push(piece));
    child.once('close', () => process.stdout.write(Buffer.concat(pieces)));
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
    const run = (project: string, output: 'live' | 'atEnd'): Promise<Tally> => {
      console.log(`\n== ${project}`);
      return runProject(project, join(dir, `${project}.json`), output);
    };
    if (projects.includes('unit')) {
      tallies.push(await run('unit', 'live'));
    }
    const others = projects.filter((name) => name !== 'unit' && name !== E2E);
    const last = others.at(-1);
    tallies.push(...(await Promise.all(others.map((project) => run(project, project === last ? 'live' : 'atEnd')))));
    if (projects.includes(E2E)) {
      tallies.push(await run(E2E, 'live'));
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

/** @returns why no cluster can run here; undefined when one can */
function whyNoCluster(): string | undefined {
  const missing = [...KUBERNETES_PROGRAMS, 'helm' as const].filter(
    (name) => findProgram(name, process.env) === undefined,
  );
  if (missing.length > 0) {
    return `${missing.join(', ')} not built here; \`make e2e-kubernetes\` builds them`;
  }
  // The image of the chart is made here.
  if (spawnSync('patchelf', ['--version']).status !== 0) {
    return 'patchelf is not installed; `make e2e-kubernetes` installs it';
  }
  const tried = spawnSync('unshare', ['--net', 'ip', 'link', 'add', 'kyb-try', 'type', 'veth'], { encoding: 'utf8' });
  // It has gone with its namespace.
  return tried.status === 0
    ? undefined
    : `no network namespace with interfaces can be made here: ${tried.error?.message ?? tried.stderr}`;
}

function defaultProjects(): string[] {
  if (process.env['KYBERNATE_E2E'] !== 'cached') {
    return PROJECTS;
  }
  const reason = whyNoCluster();
  if (reason !== undefined) {
    console.log(`kubernetes: not run: ${reason}`);
  }
  return reason === undefined ? [...PROJECTS, E2E] : PROJECTS;
}

const chosen = process.argv.slice(2);
await main(chosen.length > 0 ? chosen : defaultProjects());
