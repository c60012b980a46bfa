import { STEP_PROTOCOL_VERSION, type ProbeInput, type ProbeResult } from '../../core/contract/checkpoint.ts';
import { KybernateError } from '../../core/errors.ts';
import { probeNodeFacts } from '../../engine/facts.ts';
import { resolveContainer } from '../../engine/inspect.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { newestToken } from '../../engine/operation.ts';
import type { NodeActivityDeps } from './deps.ts';

/** Touches nothing. @throws ContainerNotFound, ContainerNotRunning, Incompatible */
export async function probeNode({ node, storeUrl }: NodeActivityDeps, input: ProbeInput): Promise<ProbeResult> {
  const facts = await probeNodeFacts(node);
  const container = input.container === undefined ? undefined : await runningContainer(node, input.container);
  const subject = container ?? input.target;
  return {
    facts,
    protocolVersion: STEP_PROTOCOL_VERSION,
    newestToken: subject === undefined ? 0 : newestToken(node.settings, subject),
    ...(container === undefined ? {} : { container }),
    ...(storeUrl === undefined ? {} : { store: storeUrl }),
  };
}

async function runningContainer(
  node: NodeDeps,
  target: NonNullable<ProbeInput['container']>,
): Promise<NonNullable<ProbeResult['container']>> {
  const { namespace, id } = await resolveContainer(node, target);
  const task = await node.containerd.getTask(namespace, id);
  if (task === undefined || task.status === 'stopped') {
    throw new KybernateError(
      'ContainerNotRunning',
      `container ${namespace}/${id} on ${node.settings.node} has ${task === undefined ? 'no task' : 'a stopped task'}`,
    );
  }
  return { namespace, id, initHostPid: task.pid };
}
