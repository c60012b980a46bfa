/* May this container be captured on this node? Nothing is touched, and every reason is told. */
import { freemem } from 'node:os';
import type { NodeFacts } from '../../core/contract/checkpoint.ts';
import { workloadName } from '../../core/contract/process.ts';
import { KybernateError } from '../../core/errors.ts';
import { caution, findingDetails, type Finding, problem, problemsIn } from '../../core/preflight.ts';
import type { Analysis } from '../analysis-result.ts';
import type { ContainerFacts } from '../container-facts.ts';
import { canLockByNftables } from '../facts.ts';
import type { GpuFindings } from '../gpu/analysis.ts';
import type { NodeDeps } from '../node-deps.ts';
import { hookFindings, type HookUse } from './hooks.ts';
import { criuTooOld, runcTooOld } from './node.ts';
import { missingPrograms } from './programs.ts';

/** What runc, CRIU and tar take for themselves beside the workload, roughly. */
const MIN_FREE_MEMORY_BYTES = 64 * 1024 * 1024;

export interface Source {
  readonly facts: ContainerFacts;
  readonly analysis: Analysis;
  readonly gpu: GpuFindings;
  readonly nodeFacts: NodeFacts;
  /** absent: none of them runs */
  readonly hooks?: HookUse;
}

/** Disk is not looked at here: that is a reservation of the plan. */
export async function sourceFindings(deps: NodeDeps, { analysis, gpu, nodeFacts, hooks }: Source): Promise<Finding[]> {
  return [
    ...gpu.unsupported.map((message) => problem('gpu-support', message)),
    ...gpu.refusals.map((message) => problem('gpu', message)),
    ...analysis.refusals.map((message) => problem('workload', message)),
    ...criuTooOld(nodeFacts.criuVersion),
    ...(hooks?.engine === 'runc' ? runcTooOld(nodeFacts.runcVersion) : []),
    ...(await missingPrograms(deps)),
    ...(await missingNetworkLock(deps, analysis)),
    ...tooLittleMemory(),
    ...(hooks === undefined ? [] : hookFindings(deps.settings.hooks, hooks)),
    ...analysis.warnings.map((message) => caution('workload', message)),
    ...gpu.warnings.map((message) => caution('gpu', message)),
  ];
}

/**
 * @throws GpuUnsupported the driver cannot save it; Incompatible otherwise; each with every reason in `details`.
 * Nothing was touched.
 */
export async function checkSource(deps: NodeDeps, source: Source): Promise<void> {
  const { ref } = source.facts;
  const findings = await sourceFindings(deps, source);
  const problems = problemsIn(findings);
  if (problems.length > 0) {
    const why = problems.map(({ message }) => message).join('; ');
    throw new KybernateError(
      source.gpu.unsupported.length > 0 ? 'GpuUnsupported' : 'Incompatible',
      `${workloadName(ref)} on ${deps.settings.node} cannot be checkpointed: ${why}; the ${source.facts.tree === undefined ? 'container' : 'process'} was not touched`,
      { details: findingDetails(problems) },
    );
  }
}

async function missingNetworkLock(deps: NodeDeps, analysis: Analysis): Promise<Finding[]> {
  return analysis.networkLock === 'nftables' && !(await canLockByNftables(deps))
    ? [
        problem(
          'criu-features',
          'it has TCP sockets, and this CRIU cannot lock connections by nftables: build CRIU with libnftables, or use tcp: close',
        ),
      ]
    : [];
}

function tooLittleMemory(): Finding[] {
  const freeBytes = freemem();
  return freeBytes < MIN_FREE_MEMORY_BYTES
    ? [problem('memory', `the node has ${freeBytes} bytes of memory left, ${MIN_FREE_MEMORY_BYTES} are needed`)]
    : [];
}
