/* Dashboard and alerts name metrics and labels as strings: what they name is what our processes tell. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { METRICS } from '../core/metrics.ts';

const CHART = join(import.meta.dirname, '../helm/kybernate');

/** Of Temporal's SDK: labels as its documentation has them. */
const SDK: Readonly<Record<string, readonly string[]>> = {
  temporal_activity_schedule_to_start_latency_seconds: ['task_queue', 'namespace', 'activity_type'],
  temporal_worker_task_slots_available: ['task_queue', 'worker_type'],
  temporal_workflow_task_execution_failed: ['task_queue', 'workflow_type', 'failure_reason'],
};

interface Expression {
  readonly where: string;
  readonly text: string;
}

interface Panel {
  readonly title: string;
  readonly targets?: ReadonlyArray<{ readonly expr: string; readonly legendFormat: string }>;
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: ReadonlyArray<{ readonly name: string; readonly definition?: string }> };
}

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly action: string };
}

const dashboard = JSON.parse(readFileSync(join(CHART, 'files/dashboards/kybernate.json'), 'utf8')) as Dashboard;
const alerts = parse(readFileSync(join(CHART, 'files/alerts/kybernate.yaml'), 'utf8')) as {
  readonly groups: ReadonlyArray<{ readonly rules: readonly Rule[] }>;
};
const rules = alerts.groups.flatMap((group) => group.rules);
const expressions: Expression[] = [
  ...dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ where: `panel ${title}`, text: expr })),
  ),
  ...rules.map(({ alert, expr }) => ({ where: alert, text: expr })),
];

/** Labels that an expression may use of a metric; undefined: nobody tells such a metric. */
function labelsOf(series: string): readonly string[] | undefined {
  if (Object.hasOwn(METRICS, series)) {
    const row = METRICS[series as keyof typeof METRICS];
    return row.kind === 'histogram' ? undefined : [...row.labels, 'node'];
  }
  const base = series.replace(/_(bucket|sum|count)$/, '');
  if (base !== series && Object.hasOwn(METRICS, base)) {
    const row = METRICS[base as keyof typeof METRICS];
    return row.kind === 'histogram' ? [...row.labels, 'node', 'le'] : undefined;
  }
  const labels = SDK[series] ?? (base === series ? undefined : SDK[base]);
  return labels === undefined ? undefined : [...labels, 'node', 'le'];
}

const seriesIn = (text: string): string[] => [...text.matchAll(/\b(?:kybernate|temporal)_\w+/g)].map(([name]) => name);

function labelsIn(text: string): string[] {
  const matchers = [...text.matchAll(/\{([^}]*)\}/g)].flatMap(([, inside = '']) =>
    [...inside.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, label = '']) => label),
  );
  const grouped = [...text.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, inside = '']) => inside.split(/,\s*/));
  return [...matchers, ...grouped].filter((label) => label !== '');
}

function isBalanced(text: string): boolean {
  const open: string[] = [];
  for (const char of text.replaceAll(/"[^"]*"/g, '')) {
    if ('([{'.includes(char)) {
      open.push(char);
    } else if (')]}'.includes(char) && open.pop() !== '([{'[')]}'.indexOf(char)]) {
      return false;
    }
  }
  return open.length === 0;
}

describe('an expression', () => {
  it.each(expressions)('of $where names metrics that are told, with labels that they have', ({ text }) => {
    const series = seriesIn(text);
    const labels = new Set(series.flatMap((name) => labelsOf(name) ?? []));

    expect(series.length).toBeGreaterThan(0);
    expect(series.filter((name) => labelsOf(name) === undefined)).toEqual([]);
    expect(labelsIn(text).filter((label) => !labels.has(label))).toEqual([]);
    expect(isBalanced(text)).toBe(true);
  });

  it('of a metric that nobody tells would be found', () => {
    expect(labelsOf('kybernate_operations_ended')).toBeUndefined();
    expect(labelsOf('kybernate_freeze_seconds')).toBeUndefined();
    expect(labelsOf('kybernate_poisoned_total_bucket')).toBeUndefined();
  });

  it('takes rates of counters only, and quantiles of buckets', () => {
    for (const { where, text } of expressions) {
      for (const [, name = ''] of text.matchAll(/\b(?:rate|increase)\((\w+)/g)) {
        const isTold = /_(total|bucket|sum|count)$/.test(name) || name === 'temporal_workflow_task_execution_failed';
        expect(isTold, `${where}: ${name}`).toBe(true);
      }
      for (const [, inside = ''] of text.matchAll(/histogram_quantile\((.*)/g)) {
        expect(inside, where).toMatch(/by \(le[,)].*_bucket/);
      }
    }
  });
});

describe('the dashboard', () => {
  it('shows every metric of our own', () => {
    const shown = new Set(expressions.flatMap(({ text }) => seriesIn(text)));
    const missing = Object.keys(METRICS).filter(
      (name) => ![name, `${name}_bucket`, `${name}_count`].some((series) => shown.has(series)),
    );

    expect(missing).toEqual([]);
  });

  it('names in its legends what its expressions keep', () => {
    for (const { title, targets = [] } of dashboard.panels) {
      for (const { expr, legendFormat } of targets) {
        const named = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label = '']) => label);
        const kept = expr.includes(' by (') ? labelsIn(expr) : seriesIn(expr).flatMap((name) => labelsOf(name) ?? []);
        expect(
          named.filter((label) => !kept.includes(label)),
          title,
        ).toEqual([]);
      }
    }
  });

  it('offers the nodes of a metric that is told', () => {
    const [, series = ''] = /label_values\((\w+), node\)/.exec(dashboard.templating.list[1]?.definition ?? '') ?? [];

    expect(labelsOf(series)).toContain('node');
  });
});

describe('the alerts', () => {
  it('say what is wrong and what to do, and whether it may wait', () => {
    for (const { alert, labels, annotations } of rules) {
      expect(alert).toMatch(/^Kybernate[A-Z]/);
      expect(['page', 'ticket']).toContain(labels.severity);
      expect(annotations.summary.length, alert).toBeGreaterThan(10);
      expect(annotations.action.length, alert).toBeGreaterThan(10);
    }
  });

  it('tell when no operator leads, and also when none is left that could tell', () => {
    const { expr = '' } = rules.find(({ alert }) => alert === 'KybernateNoOperatorLeads') ?? {};
    const [waiting = '', gone = ''] = expr.split(' or ').map((part) => part.trim());

    expect(waiting).toBe('sum(kybernate_operator_leader) < 1');
    // An installation that never had one has nothing to tell.
    expect(gone).toMatch(
      /^\(sum\(present_over_time\(kybernate_operator_leader\[1d\]\)\) and absent\(kybernate_operator_leader\)\)$/,
    );
  });

  it('are those that docs/metrics.md lists, with their severity', () => {
    const text = readFileSync(join(import.meta.dirname, '../docs/metrics.md'), 'utf8');
    const listed = [...text.matchAll(/^\| `(Kybernate\w+)` +\| (\w+)/gm)].map(
      ([, name, severity]) => `${name} ${severity}`,
    );

    expect(listed).toEqual(rules.map(({ alert, labels }) => `${alert} ${labels.severity}`));
  });
});
