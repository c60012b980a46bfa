import { setTimeout as sleep } from 'node:timers/promises';
import { STEP_PROTOCOL_VERSION, type ProbeInput, type ProbeResult } from '../../core/contract/checkpoint.ts';
import { processRef } from '../../core/contract/process.ts';
import { KybernateError, isKybernateError } from '../../core/errors.ts';
import { probeNodeFacts } from '../../engine/facts.ts';
import { resolveContainer } from '../../engine/inspect.ts';
import { resolveProcess } from '../../engine/inspect-process.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { newestToken } from '../../engine/operation.ts';
import type { NodeActivityDeps } from './deps.ts';

/** Together less than half of what a probe may take. */
const SIDECAR_ATTEMPTS = 8;
const SIDECAR_PAUSE_MS = 500;

/** Touches nothing. @throws ContainerNotFound, ContainerNotRunning, ProcessNotFound, Incompatible */
export async function probeNode(deps: NodeActivityDeps, input: ProbeInput): Promise<ProbeResult> {
  const { node } = deps;
  const facts = await probeNodeFacts(node);
  const container = input.container === undefined ? undefined : await runningContainer(node, input.container);
  const process = input.process === undefined ? undefined : resolveProcess(input.process);
  const subject = container ?? (process === undefined ? input.target : processRef(process));
  const store = input.store === true ? await storeUrl(deps) : undefined;
  return {
    facts,
    protocolVersion: STEP_PROTOCOL_VERSION,
    newestToken: subject === undefined ? 0 : newestToken(node.settings, subject),
    ...(container === undefined ? {} : { container }),
    ...(process === undefined ? {} : { process }),
    ...(store === undefined ? {} : { store }),
  };
}

/** undefined while no sidecar answers; one that is being restarted is waited for. */
async function storeUrl({ backend }: NodeActivityDeps): Promise<string | undefined> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return (await backend()).url;
    } catch (error) {
      if (!isKybernateError(error, 'StorageUnavailable')) {
        throw error;
      }
      if (attempt === SIDECAR_ATTEMPTS) {
        return undefined;
      }
    }
    await sleep(SIDECAR_PAUSE_MS);
  }
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
