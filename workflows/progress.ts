/*
 * Where an operation is: answered to the query `progress`, shown as a table in the Web UI, kept in search attributes.
 * The table is pure; ProgressTracker connects it to the running workflow.
 */
import { setCurrentDetails, setHandler, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { ContainerTarget } from '../core/contract/common.ts';
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { RungReport } from '../core/contract/ladder.ts';
import type { NodeBytes, OperationProgress, ProgressReport } from '../core/contract/progress.ts';
import type { Phase } from '../core/phases.ts';
import { SEARCH_ATTRIBUTES } from '../core/search-attributes.ts';
import { parseOrFail } from './failures.ts';
import { progressQuery, reportProgressSignal } from './messages.ts';

/** What `KybernateOutcome` says of an operation that ended well; otherwise it is the error type, or `Cancelled`. */
export const OUTCOME_COMPLETED = 'Completed';
export const OUTCOME_CANCELLED = 'Cancelled';

/**
 * Phases by which operations are looked for. The others pass in milliseconds, and every change of a search attribute
 * costs the server a write to its visibility store.
 */
const LISTED: ReadonlySet<Phase> = new Set<Phase>([
  'capturing',
  'holding',
  'uploading',
  'verifying',
  'fetching',
  'importing',
  'restoring',
  'waiting',
  'deleting',
  'rolling-back',
]);

export interface ProgressStart {
  readonly node: string;
  /** as the caller named it, until the node has resolved it */
  readonly container: string;
  readonly checkpointId?: string;
  readonly firstPhase: Phase;
}

type KeywordName = (typeof SEARCH_ATTRIBUTES)[keyof typeof SEARCH_ATTRIBUTES];

/**
 * An operation that ends before it has begun is found by its outcome too, and by what can be read of its input.
 * @throws InvalidInput, as `parseOrFail`
 */
export function parseRequest<Schema extends Parameters<typeof parseOrFail>[0]>(
  schema: Schema,
  request: unknown,
): ReturnType<typeof parseOrFail<Schema>> {
  try {
    return parseOrFail(schema, request);
  } catch (error) {
    const node = (request as { node?: unknown } | null | undefined)?.node;
    upsert({
      ...(typeof node === 'string' ? { [SEARCH_ATTRIBUTES.node]: node.slice(0, 255) } : {}),
      [SEARCH_ATTRIBUTES.phase]: 'failed',
      [SEARCH_ATTRIBUTES.outcome]: 'InvalidInput',
    });
    throw error;
  }
}

export class ProgressTracker {
  #state: OperationProgress;
  /** search attributes that go with the next change of the phase */
  #unlisted: Partial<Record<KeywordName, string>> = {};

  /** Registers the handlers and the first search attributes: call it before the first await. */
  constructor(start: ProgressStart) {
    const { firstPhase, ...rest } = start;
    this.#state = { ...rest, phase: firstPhase, phaseStartedAt: now(), finished: [] };
    setHandler(progressQuery, () => this.#state, { description: 'phase, bytes and times of this operation' });
    setHandler(reportProgressSignal, (report) => this.report(report), { description: 'sent by the node' });
    upsert({
      [SEARCH_ATTRIBUTES.node]: start.node,
      [SEARCH_ATTRIBUTES.container]: start.container,
      [SEARCH_ATTRIBUTES.phase]: firstPhase,
      ...(start.checkpointId === undefined ? {} : { [SEARCH_ATTRIBUTES.checkpointId]: start.checkpointId }),
    });
    this.#show();
  }

  get state(): OperationProgress {
    return this.#state;
  }

  /** The node found which container is meant. */
  resolved(container: string): void {
    if (container !== this.#state.container) {
      this.#state = { ...this.#state, container };
      upsert({ [SEARCH_ATTRIBUTES.container]: container });
      this.#show();
    }
  }

  gpu(processes: number, vramBytes?: number): void {
    if (processes > 0 && vramBytes !== undefined) {
      this.#state = { ...this.#state, gpu: { processes, vramBytes } };
    }
    this.#unlisted = { ...this.#unlisted, [SEARCH_ATTRIBUTES.gpu]: processes > 0 ? 'yes' : 'no' };
  }

  /** From now on the source may stand still, for so long at most. */
  standsStill(kind: 'freeze' | 'hold', budgetMs: number): void {
    const endsAt = new Date(Date.now() + budgetMs).toISOString();
    this.#state = { ...this.#state, budget: { kind, endsAt } };
    this.#show();
  }

  /** It runs again, or is ended. */
  runs(): void {
    const { budget: _over, ...rest } = this.#state;
    this.#state = rest;
    this.#show();
  }

  /** The checkpoint of this operation stays, whatever becomes of the rest. */
  committed(): void {
    this.#state = { ...this.#state, committed: true };
    this.#show();
  }

  /** The undo has let the source go, and looked at it. */
  rolledBack(rollback: ResumeResult): void {
    const { budget: _over, ...rest } = this.#state;
    this.#state = { ...rest, rollback };
    this.#show();
  }

  enter(phase: Phase): void {
    this.#state = entered(this.#state, phase, now());
    // Milliseconds without a GPU, perhaps minutes with one.
    if (LISTED.has(phase) || (phase === 'saving-gpu' && this.#state.gpu !== undefined)) {
      upsert({ [SEARCH_ATTRIBUTES.phase]: phase, ...this.#unlisted });
      this.#unlisted = {};
    }
    this.#show();
  }

  /** One more was tried. */
  rung(report: RungReport): void {
    this.#state = { ...this.#state, rungs: [...(this.#state.rungs ?? []), report] };
    this.#show();
  }

  report(report: ProgressReport): void {
    this.#state = reported(this.#state, report);
    this.#show();
  }

  end(phase: 'done' | 'failed' | 'cancelled', outcome: string, lastError?: string): void {
    const state = entered(this.#state, phase, now());
    this.#state = { ...state, outcome, ...(lastError === undefined ? {} : { lastError }) };
    upsert({ [SEARCH_ATTRIBUTES.phase]: phase, [SEARCH_ATTRIBUTES.outcome]: outcome, ...this.#unlisted });
    this.#show();
  }

  #show(): void {
    setCurrentDetails(detailsTable(this.#state, workflowInfo().workflowId));
  }
}

/** The container as its caller named it. */
export function targetName(target: ContainerTarget): string {
  const { pod, docker } = target;
  if (docker !== undefined) {
    return `docker/${docker}`;
  }
  return pod === undefined
    ? `${target.namespace ?? 'default'}/${target.id}`
    : `${pod.namespace}/${pod.name}/${pod.container}`;
}

/** Closes the current phase and opens the next; entering the same phase again changes nothing. */
export function entered(state: OperationProgress, phase: Phase, at: string): OperationProgress {
  if (phase === state.phase) {
    return state;
  }
  const durationMs = Date.parse(at) - Date.parse(state.phaseStartedAt);
  const { bytesDone: _done, bytesTotal: _total, nodes: _nodes, ...rest } = state;
  return {
    ...rest,
    phase,
    phaseStartedAt: at,
    finished: [...state.finished, { phase: state.phase, durationMs }],
  };
}

/** A report that comes late, after its step, is dropped: bytes belong to the phase in which they moved. */
export function reported(state: OperationProgress, report: ProgressReport): OperationProgress {
  if (report.phase !== state.phase) {
    return state;
  }
  if (report.node !== undefined && report.bytesDone !== undefined) {
    const { bytesDone, bytesTotal } = report;
    return summed(state, report.node, { bytesDone, ...(bytesTotal === undefined ? {} : { bytesTotal }) });
  }
  return {
    ...state,
    ...(report.bytesDone === undefined ? {} : { bytesDone: report.bytesDone }),
    ...(report.bytesTotal === undefined ? {} : { bytesTotal: report.bytesTotal }),
  };
}

/** The total is known when every node that reports knows its own. */
function summed(state: OperationProgress, node: string, bytes: NodeBytes): OperationProgress {
  const nodes = { ...state.nodes, [node]: bytes };
  const parts = Object.values(nodes);
  const bytesDone = parts.reduce((sum, part) => sum + part.bytesDone, 0);
  const bytesTotal = parts.reduce((sum, part) => sum + (part.bytesTotal ?? Number.NaN), 0);
  const { bytesTotal: _total, ...rest } = state;
  return { ...rest, nodes, bytesDone, ...(Number.isNaN(bytesTotal) ? {} : { bytesTotal }) };
}

/** Markdown for the Web UI. */
export function detailsTable(state: OperationProgress, workflowId: string): string {
  const rows = state.finished.map(({ phase, durationMs }) => `| ${phase} | ${seconds(durationMs)} |`);
  const last = state.outcome ?? currentBytes(state);
  return [
    `**${state.container}** on **${state.node}**${state.checkpointId === undefined ? '' : `, checkpoint \`${state.checkpointId}\``}`,
    ...(state.gpu === undefined
      ? []
      : [
          '',
          `GPU: ${state.gpu.processes} ${state.gpu.processes === 1 ? 'process' : 'processes'}, ${mebibytes(state.gpu.vramBytes)} MiB of VRAM`,
        ]),
    '',
    '| phase | time |',
    '|---|---|',
    ...rows,
    `| **${state.phase}** | ${last} |`,
    ...(state.budget === undefined ? [] : ['', `The ${state.budget.kind} budget ends at ${state.budget.endsAt}`]),
    ...(state.rollback === undefined ? [] : ['', rollbackText(state.rollback)]),
    ...(state.rungs === undefined
      ? []
      : ['', ...state.rungs.map(({ rung, node, type, outcome }) => `- ${rung} on ${node}: ${type ?? outcome}`)]),
    ...(state.committed && ['failed', 'cancelled'].includes(state.phase)
      ? ['', 'The checkpoint had been committed before and stays on the node']
      : []),
    ...(state.phase === 'holding'
      ? ['', `The source is frozen. To let it run on: \`kybernate release ${workflowId}\``]
      : []),
    ...(state.lastError === undefined ? [] : ['', state.lastError]),
  ].join('\n');
}

function rollbackText({ source, by, processCount, checks, health }: ResumeResult): string {
  const failed = Object.keys(checks).filter((name) => checks[name] === false);
  return [
    `Source after the undo: ${source}`,
    ...(by === undefined ? [] : [`brought back by the ${by}`]),
    ...(processCount === undefined ? [] : [`${processCount} ${processCount === 1 ? 'process' : 'processes'}`]),
    `${Object.keys(checks).length - failed.length} checks hold${failed.length === 0 ? '' : `, not: ${failed.join(', ')}`}`,
    ...(health === undefined ? [] : [health.healthy ? 'it is well' : `its health command fails: ${health.output}`]),
  ].join('; ');
}

function currentBytes(state: OperationProgress): string {
  if (state.bytesDone === undefined) {
    return 'since ' + state.phaseStartedAt;
  }
  const total = state.bytesTotal === undefined ? '' : ` of ${mebibytes(state.bytesTotal)}`;
  return `${mebibytes(state.bytesDone)}${total} MiB`;
}

function mebibytes(bytes: number): string {
  return (bytes / 1_048_576).toFixed(1);
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function now(): string {
  return new Date(Date.now()).toISOString();
}

function upsert(values: Partial<Record<KeywordName, string>>): void {
  upsertSearchAttributes(
    Object.entries(values).map(([name, value]) => ({ key: { name, type: 'KEYWORD' as const }, value })),
  );
}
