/* What a probe's answer must say before anything else is done on the node. */
import { STEP_PROTOCOL_VERSION, type CheckpointInput, type ProbeResult } from '../core/contract/checkpoint.ts';
import { processRef, type ProcessId } from '../core/contract/process.ts';
import { failure, noSidecar } from './failures.ts';

/** @throws Incompatible the node's worker speaks another version of the steps */
export function checkProtocol(probe: ProbeResult, node: string): void {
  if (probe.protocolVersion !== STEP_PROTOCOL_VERSION) {
    throw failure(
      'Incompatible',
      `the worker of node ${node} speaks step protocol ${probe.protocolVersion}, this workflow ${STEP_PROTOCOL_VERSION}: upgrade the older one`,
      { node },
    );
  }
}

/** @throws Incompatible; ContainerNotFound a node that answered without the container it was asked for */
export function resolvedContainer(probe: ProbeResult, node: string): { namespace: string; id: string } {
  checkProtocol(probe, node);
  if (probe.container === undefined) {
    throw failure('ContainerNotFound', `node ${node} resolved no container`, { node });
  }
  const { namespace, id } = probe.container;
  return { namespace, id };
}

export interface ResolvedTarget {
  /** under which it is locked */
  readonly source: { readonly namespace: string; readonly id: string };
  /** of a process */
  readonly process?: ProcessId;
}

/** @throws Incompatible; ContainerNotFound a node that answered without what it was asked for */
export function resolvedTarget(probe: ProbeResult, input: CheckpointInput): ResolvedTarget {
  if (input.process === undefined) {
    return { source: resolvedContainer(probe, input.node) };
  }
  checkProtocol(probe, input.node);
  const { process } = probe;
  if (process === undefined) {
    throw failure('Incompatible', `the worker of node ${input.node} knows no processes: upgrade it`, {
      node: input.node,
    });
  }
  return { source: processRef(process), process };
}

/** @throws NodeUnavailable nobody would take a step that reads or writes the store */
export function checkSidecar(probe: ProbeResult, node: string): void {
  if (probe.store === undefined) {
    throw failure('NodeUnavailable', noSidecar(node), { node });
  }
}

/** @throws NodeUnavailable nobody would upload: better said before the workload is touched than after */
export function checkStore(probe: ProbeResult, input: Pick<CheckpointInput, 'node' | 'durability'>): void {
  if (input.durability !== 'local' && probe.store === undefined) {
    throw failure(
      'NodeUnavailable',
      `${noSidecar(input.node)}; without it durability ${input.durability} cannot be reached, local can`,
      { node: input.node },
    );
  }
}
