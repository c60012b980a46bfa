import { planStandstill } from '../core/contract/liveness.ts';
import {
  preflightInput,
  type PreflightInput,
  type PreflightRequest,
  type PreflightResult,
  type PreflightStepResult,
} from '../core/contract/preflight.ts';
import type { ResolveResult } from '../core/contract/restore.ts';
import { DOCKER_NAMESPACE } from '../core/ids.ts';
import { caution, problem, type Finding } from '../core/preflight.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { runOperation } from './operation.ts';
import { checkProtocol } from './probe.ts';
import { OUTCOME_COMPLETED, ProgressTracker, parseRequest, targetName } from './progress.ts';
import { controlProxy, nodeProxies, type NodeProxies } from './proxies.ts';

/**
 * Would this checkpoint run on that node; can this container be checkpointed there? Every reason is told, and nothing is
 * touched. A node that does not fit is a result, not a failure, and `KybernateOutcome` says `Incompatible`.
 */
export async function preflight(request: PreflightRequest): Promise<PreflightResult> {
  const input = parseRequest(preflightInput, request);
  const { node, checkpointId, container, timeouts } = input;
  const named = container === undefined ? (checkpointId ?? '') : targetName(container);
  const progress = new ProgressTracker({
    node,
    container: named,
    firstPhase: 'probing',
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  const summary = `${named} on ${node}`;
  const steps = nodeProxies({ node, timeouts, summary });
  const frame = {
    node,
    progress,
    undo: new Compensation(),
    delivered: () => Promise.resolve(),
    outcome: ({ fits }: PreflightResult) => (fits ? OUTCOME_COMPLETED : 'Incompatible'),
  };
  return runOperation(frame, async () => {
    checkProtocol(await steps.probe.probeNode({}), node);
    if (container !== undefined) {
      const { engine, after, gpu, tcp = 'keep', captureVolumes } = input;
      const wanted = captureVolumes === undefined ? {} : { captureVolumes };
      const request = { container, engine, after, gpu, tcp, ...wanted };
      const looked = await steps.preflight.preflightCheckpoint(request);
      return resultOf(input, { ...looked, findings: [...looked.findings, ...standstillFindings(input)] });
    }
    const found = await findCopy(input, checkpointId ?? '', steps, summary);
    return resultOf(input, await lookAt(input, checkpointId ?? '', found, steps), found.from);
  });
}

/** As the workflow `checkpoint` would see it, before any step. */
function standstillFindings(input: PreflightInput): readonly Finding[] {
  const { refusal, warning } = planStandstill(input);
  return [
    ...(refusal === undefined ? [] : [problem('liveness-probe', refusal)]),
    ...(warning === undefined ? [] : [caution('liveness-probe', warning)]),
  ];
}

function resultOf(input: PreflightInput, step: PreflightStepResult, from?: ResolveResult['from']): PreflightResult {
  const isProblem = ({ severity }: (typeof step.findings)[number]): boolean => severity === 'error';
  return {
    node: input.node,
    container: step.container,
    ...(input.checkpointId === undefined ? {} : { checkpointId: input.checkpointId }),
    ...(from === undefined || from === 'path' ? {} : { from }),
    fits: !step.findings.some(isProblem),
    findings: [...step.findings.filter(isProblem), ...step.findings.filter((finding) => !isProblem(finding))],
    checkMs: step.checkMs,
  };
}

async function lookAt(
  input: PreflightInput,
  checkpointId: string,
  found: ResolveResult,
  steps: Pick<NodeProxies, 'preflight'>,
): Promise<PreflightStepResult> {
  const { as, tcp = 'close', gpuMap, networkNamespace } = input;
  const source = found.sourceContainer ?? { namespace: 'default', id: 'restored' };
  return steps.preflight.preflightRestore({
    checkpointId,
    from: found.from === 'store' ? 'store' : 'local',
    ...(as.docker === undefined
      ? { container: { namespace: as.namespace ?? source.namespace, id: as.id ?? source.id } }
      : {
          container: {
            namespace: DOCKER_NAMESPACE,
            id: as.docker === true ? (found.dockerName ?? source.id) : as.docker,
          },
          docker: true as const,
        }),
    tcp,
    gpuMap,
    name: true,
    ...(networkNamespace === undefined ? {} : { networkNamespace }),
  });
}

/** @throws CheckpointNotFound */
async function findCopy(
  { node, source }: PreflightInput,
  checkpointId: string,
  steps: Pick<NodeProxies, 'probe'>,
  summary: string,
): Promise<ResolveResult> {
  if (source !== 'store') {
    const local = await steps.probe.resolveLocal({ node, checkpointId, unverified: false, source });
    if (local.found !== undefined) {
      return local.found;
    }
  }
  const stored = source === 'local' ? {} : await controlProxy(summary).findCheckpoint({ checkpointId });
  if (stored.found === undefined) {
    const places = { auto: `on node ${node} nor in the store`, local: `on node ${node}`, store: 'in the store' };
    throw failure('CheckpointNotFound', `no checkpoint ${checkpointId} ${places[source]}`, { node });
  }
  return stored.found;
}
