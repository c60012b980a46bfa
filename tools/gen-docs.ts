/*
 * Writes the tables of docs/ that repeat the code: errors, workflow inputs, variables, options of the CLI. A table stands
 * between `<!-- generated: name -->` and `<!-- end -->`; a unit test fails when one is not current.
 *
 * node tools/gen-docs.ts           writes
 * node tools/gen-docs.ts --check   ends with 1 when something would change
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { format, resolveConfig } from 'prettier';
import { CLI_ERRORS } from '../cli/exit-codes.ts';
import { containerTarget, timeouts } from '../core/contract/common.ts';
import { checkpointInput } from '../core/contract/checkpoint.ts';
import { gpuOptions, rehearseInput, workloadHook } from '../core/contract/gpu.ts';
import { DEFAULT_LADDER, HELPS, RUNG_NAMES, RUNGS } from '../core/contract/ladder.ts';
import { preflightInput } from '../core/contract/preflight.ts';
import { deleteCheckpointInput } from '../core/contract/delete-checkpoint.ts';
import { importCheckpointInput } from '../core/contract/import-checkpoint.ts';
import { inspectRestoreInput } from '../core/contract/inspect-restore.ts';
import { listCopiesInput } from '../core/contract/list-copies.ts';
import { prefetchInput } from '../core/contract/prefetch.ts';
import { repairInput, verifyInput } from '../core/contract/verify.ts';
import { restoreInput } from '../core/contract/restore.ts';
import { ERRORS } from '../core/errors.ts';
import { METRICS, type MetricProcess } from '../core/metrics.ts';
import { HOOK_EVENTS, type HookEventRow } from '../core/hooks.ts';
import { ANNOTATIONS } from '../core/oci/annotations.ts';
import type { ErrorRow } from '../core/errors.ts';
import { PREFLIGHT_CHECKS } from '../core/preflight.ts';
import { ALL_KINDS, KINDS, type Outcome, readRows, reasonOf } from '../test/harness/matrix-data.ts';
import { chartValues } from './chart-values.ts';
import { crdFiles } from './crds.ts';
import { cliReference } from './docs/cli.ts';
import { comments, fieldTable, HOOKS, inputTable, variableTable } from './docs/fields.ts';
import { table } from './docs/table.ts';
import { schemaComments } from './schema-comments.ts';

const ROOT = join(import.meta.dirname, '..');

export const GENERATED_FILES = [
  'docs/errors.md',
  'docs/configuration.md',
  'docs/operations.md',
  'docs/hooks.md',
  'docs/support.md',
  'docs/metrics.md',
  'docs/kubernetes.md',
] as const;

/** Every generated section, by its name. */
export function generatedSections(): ReadonlyMap<string, string> {
  return new Map([
    ['errors', errorTable()],
    ['cli-errors', cliErrorTable()],
    ['checkpoint-input', inputTable(checkpointInput, 'checkpoint', 'checkpointInput')],
    ['restore-input', inputTable(restoreInput, 'restore', 'restoreInput')],
    ['rehearse-input', inputTable(rehearseInput, 'gpu', 'rehearseInput')],
    ['preflight-input', inputTable(preflightInput, 'preflight', 'preflightInput')],
    ['preflight-checks', checkTable()],
    ['hook-events', hookTable()],
    ['list-copies-input', inputTable(listCopiesInput, 'list-copies', 'listCopiesInput')],
    ['delete-checkpoint-input', inputTable(deleteCheckpointInput, 'delete-checkpoint', 'deleteCheckpointInput')],
    ['import-checkpoint-input', inputTable(importCheckpointInput, 'import-checkpoint', 'importCheckpointInput')],
    ['inspect-restore-input', inputTable(inspectRestoreInput, 'inspect-restore', 'inspectRestoreInput')],
    ['rungs', rungTable()],
    ['prefetch-input', inputTable(prefetchInput, 'prefetch', 'prefetchInput')],
    ['verify-input', inputTable(verifyInput, 'verify', 'verifyInput')],
    ['repair-input', inputTable(repairInput, 'verify', 'repairInput')],
    ['gpu-options', fieldTable(gpuOptions, comments('gpu', 'gpuOptions'), HOOKS)],
    ['workload-hook', fieldTable(workloadHook, comments('gpu', 'workloadHook'))],
    ['container-target', fieldTable(containerTarget, comments('common', 'containerTarget'))],
    ['timeouts', fieldTable(timeouts, comments('common', 'timeouts'))],
    ['annotations', annotationTable()],
    ['variables', variableTable()],
    ['chart-values', chartValueTable()],
    ['metrics', metricTable()],
    ['matrix', matrixTable()],
    ['cli', cliReference()],
  ]);
}

/** @throws Error for a marker whose section nobody generates */
export function withSections(text: string, sections: ReadonlyMap<string, string>): string {
  return text.replaceAll(/<!-- generated: ([a-z-]+) -->\n[^]*?<!-- end -->/g, (_, name: string) => {
    const content = sections.get(name);
    if (content === undefined) {
      throw new Error(`nobody generates the section "${name}"`);
    }
    return `<!-- generated: ${name} -->\n\n${content}\n\n<!-- end -->`;
  });
}

/** Source of `file`, relative to the repository, as it stands and as it should stand. */
export async function currentAndWanted(file: string): Promise<{ readonly current: string; readonly wanted: string }> {
  const path = join(ROOT, file);
  const current = readFileSync(path, 'utf8');
  // The formatter aligns tables; it has the last word over the file.
  const config = (await resolveConfig(path)) ?? {};
  return { current, wanted: await format(withSections(current, generatedSections()), { ...config, filepath: path }) };
}

const WORKLOAD_MEANING: Readonly<Record<ErrorRow['workload'], string>> = {
  untouched: 'untouched',
  running: 'running',
  held: 'held (frozen)',
  unknown: 'unknown',
  lost: 'lost',
  none: '-',
};

function errorTable(): string {
  return table(
    ['Type', 'Exit code', 'Retried', 'Who acts', 'Workload', 'What to do'],
    Object.entries<ErrorRow>(ERRORS).map(([type, row]) => [
      `\`${type}\``,
      String(row.exitCode),
      row.retryable ? 'yes' : 'no',
      row.actor,
      WORKLOAD_MEANING[row.workload],
      row.remedy,
    ]),
  );
}

function cliErrorTable(): string {
  return table(
    ['Type', 'Exit code', 'What to do'],
    Object.entries(CLI_ERRORS).map(([type, row]) => [`\`${type}\``, String(row.exitCode), row.remedy]),
  );
}

function rungTable(): string {
  const rungs = RUNG_NAMES.map((rung) => [
    `\`${rung}\``,
    RUNGS[rung],
    HELPS[rung].map((type) => `\`${type}\``).join(', '),
    DEFAULT_LADDER.includes(rung) ? 'yes' : 'by name only',
  ]);
  return table(['Rung', 'What is tried', 'After', 'By default'], rungs);
}

function checkTable(): string {
  return table(
    ['Code', 'What is looked at', 'What to do'],
    Object.entries(PREFLIGHT_CHECKS).map(([code, { checks, remedy }]) => [`\`${code}\``, checks, remedy]),
  );
}

function hookTable(): string {
  const rows = Object.entries<HookEventRow>(HOOK_EVENTS).map(([event, { operations, kinds, vetoes, when }]) => [
    `\`${event}\``,
    operations.join(', '),
    kinds.length === 1 ? `${kinds.join()} only` : 'container, process',
    vetoes.length === 0 ? 'no' : vetoes.length === operations.length ? 'yes' : `in a ${vetoes.join()}`,
    when,
  ]);
  return table(['Event', 'Of a', 'For a', 'Can refuse', 'Moment'], rows);
}

const METRIC_PROCESSES: Readonly<Record<MetricProcess, string>> = {
  workflows: 'control worker',
  control: 'control worker',
  node: 'node worker',
  sidecar: 'sidecar',
  operator: 'operator',
};

function metricTable(): string {
  const rows = Object.entries(METRICS).map(([name, { kind, processes, labels, help }]) => [
    `\`${name}\``,
    kind,
    labels.map((label) => `\`${label}\``).join(', '),
    processes.map((process) => METRIC_PROCESSES[process]).join(', '),
    help,
  ]);
  return table(['Metric', 'Kind', 'Labels', 'Told by', 'Meaning'], rows);
}

function annotationTable(): string {
  const said = schemaComments(readFileSync(join(ROOT, 'core/oci/annotations.ts'), 'utf8'), 'ANNOTATIONS');
  return table(
    ['Annotation', 'Meaning'],
    Object.entries(ANNOTATIONS).map(([name, key]) => [`\`${key}\``, said.get(name) ?? '']),
  );
}

/** Reasons are footnotes, each told once. */
function matrixTable(): string {
  const reasons: string[] = [];
  const cell = (outcome: Outcome | undefined): string => {
    if (outcome === undefined || outcome === 'passed') {
      return outcome ?? 'not run';
    }
    const reason = reasonOf(outcome);
    if (!reasons.includes(reason)) {
      reasons.push(reason);
    }
    return `${'refused' in outcome ? 'refused' : 'failed'} (${reasons.indexOf(reason) + 1})`;
  };
  const rows = readRows().map(({ platform, runtime, cells }) => [
    platform,
    runtime,
    ...ALL_KINDS.map((kind) => cell(cells[kind])),
  ]);
  const notes = reasons.map((reason, at) => `${at + 1}. ${reason}`);
  return [table(['Platform', 'Runtime', ...ALL_KINDS.map((kind) => KINDS[kind])], rows), ...notes].join('\n\n');
}

function chartValueTable(): string {
  const rows = chartValues()
    .filter((value) => value.default !== undefined)
    .map(({ name, default: value, meaning = '', choices }) => [
      `\`${name}\``,
      value === '' ? '' : `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``,
      `${meaning}${choices.length === 0 ? '' : ` (${choices.map((choice) => `\`${choice}\``).join(', ')})`}`,
    ]);
  return table(['Value', 'Default', 'Meaning'], rows);
}

async function main(check: boolean): Promise<number> {
  let stale = 0;
  for (const file of GENERATED_FILES) {
    const { current, wanted } = await currentAndWanted(file);
    if (current === wanted) {
      continue;
    }
    stale += 1;
    if (check) {
      console.log(`${file} is not current: run node tools/gen-docs.ts`);
    } else {
      writeFileSync(join(ROOT, file), wanted);
      console.log(`wrote ${file}`);
    }
  }
  for (const [file, wanted] of crdFiles()) {
    const path = join(ROOT, file);
    if (existsSync(path) && readFileSync(path, 'utf8') === wanted) {
      continue;
    }
    stale += 1;
    if (check) {
      console.log(`${file} is not current: run node tools/gen-docs.ts`);
    } else {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, wanted);
      console.log(`wrote ${file}`);
    }
  }
  return check && stale > 0 ? 1 : 0;
}

if (import.meta.main) {
  process.exitCode = await main(process.argv.includes('--check'));
}
