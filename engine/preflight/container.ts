/* Can this container be checkpointed on this node? Reads what a plan reads, and reserves nothing. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { PreflightCheckpointInput, PreflightStepResult } from '../../core/contract/preflight.ts';
import { isKybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { type Finding, problem } from '../../core/preflight.ts';
import { analyzeContainer } from '../analysis.ts';
import type { ContainerFacts, ContainerId } from '../container-facts.ts';
import { probeNodeFacts } from '../facts.ts';
import { analyzeGpu } from '../gpu/analysis.ts';
import { inspectContainer, resolveContainer } from '../inspect.ts';
import type { NodeDeps } from '../node-deps.ts';
import { checkDisk } from '../plan.ts';
import { sourceFindings } from './source.ts';

/** The estimate of the GPU's part is compared with the freeze budget by the checkpoint itself, which knows it. */
const ANY_BUDGET_MS = 86_400_000;

export interface ContainerSurvey {
  readonly operationId: string;
  readonly op: Pick<Op, 'signal'>;
}

/** @throws ContainerNotFound, ContainerNotRunning; whatever else keeps it from a checkpoint is a finding */
export async function surveyContainer(
  deps: NodeDeps,
  { operationId, op }: ContainerSurvey,
  input: PreflightCheckpointInput,
): Promise<PreflightStepResult> {
  const begun = performance.now();
  const ref = await resolveContainer(deps, input.container);
  const findings = await findingsFor(deps, ref, operationId, input);
  op.signal.throwIfAborted();
  return { container: ref, findings, checkMs: performance.now() - begun };
}

async function findingsFor(
  deps: NodeDeps,
  ref: ContainerId,
  operationId: string,
  input: PreflightCheckpointInput,
): Promise<readonly Finding[]> {
  let facts: ContainerFacts;
  try {
    facts = await inspectContainer(deps, ref);
  } catch (error) {
    if (!isKybernateError(error, 'Incompatible')) {
      throw error;
    }
    return [problem('container-state', error.message)];
  }
  const nodeFacts = await probeNodeFacts(deps);
  const analysis = await analyzeContainer(deps, facts, input);
  const gpu = await analyzeGpu(deps, facts, analysis.gpuHolders, {
    operationId,
    options: input.gpu,
    freezeBudgetMs: ANY_BUDGET_MS,
    rehearsal: false,
  });
  const neededBytes = analysis.estimatedBytes + gpu.plan.reservedMemoryBytes;
  return [
    ...(await sourceFindings(deps, {
      facts,
      analysis,
      gpu,
      nodeFacts,
      hooks: { operation: 'checkpoint', kind: 'container', engine: input.engine },
    })),
    ...(await diskFindings(deps, operationId, neededBytes)),
  ];
}

async function diskFindings(deps: NodeDeps, operationId: string, neededBytes: number): Promise<readonly Finding[]> {
  const { stateDir } = deps.settings;
  const dir = join(stateDir, 'checkpoints');
  try {
    await checkDisk(deps, existsSync(dir) ? dir : stateDir, operationId, neededBytes);
    return [];
  } catch (error) {
    if (!isKybernateError(error, 'DiskFull')) {
      throw error;
    }
    return [problem('disk', error.message, { recorded: `${neededBytes} bytes` })];
  }
}
