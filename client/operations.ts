/* Starts of operations: each request is checked here, and gets the id and the summary that the Web UI shows. */
import type { Client } from '@temporalio/client';
import { checkpointInput } from '../core/contract/checkpoint.ts';
import { collectGarbageInput } from '../core/contract/collect-garbage.ts';
import type { ContainerTarget } from '../core/contract/common.ts';
import { deleteCheckpointInput } from '../core/contract/delete-checkpoint.ts';
import { rehearseInput } from '../core/contract/gpu.ts';
import { importCheckpointInput } from '../core/contract/import-checkpoint.ts';
import { inspectRestoreInput } from '../core/contract/inspect-restore.ts';
import { listCopiesInput } from '../core/contract/list-copies.ts';
import { parseInput } from '../core/contract/parse.ts';
import { prefetchInput } from '../core/contract/prefetch.ts';
import { preflightInput } from '../core/contract/preflight.ts';
import { restoreProcessInput } from '../core/contract/process.ts';
import { restoreInput } from '../core/contract/restore.ts';
import { repairInput, verifyInput } from '../core/contract/verify.ts';
import {
  checkpointWorkflowId,
  collectGarbageWorkflowId,
  deleteCheckpointWorkflowId,
  importCheckpointWorkflowId,
  inspectRestoreWorkflowId,
  prefetchWorkflowId,
  listCopiesWorkflowId,
  preflightWorkflowId,
  rehearseWorkflowId,
  repairWorkflowId,
  restoreWorkflowId,
  verifyWorkflowId,
} from '../core/ids.ts';
import type { KybernateClient } from './kybernate-client.ts';
import { startOperation } from './start-operation.ts';

type Operations = Omit<KybernateClient, 'namespace' | 'list' | 'nodes' | 'describe' | 'find' | 'close'>;

export function operations(client: Client): Operations {
  return {
    checkpoint(request, start = {}) {
      const input = parseInput(checkpointInput, request);
      const target = input.container === undefined ? `process-${input.process?.pid}` : targetOf(input.container);
      return startOperation(client, 'checkpoint', request, {
        workflowId: start.workflowId ?? checkpointWorkflowId(target, start.generation ?? newGeneration()),
        summary: `checkpoint ${target} on ${input.node}`,
      });
    },
    restore(request, start = {}) {
      const input = parseInput(restoreInput, request);
      const target = String(input.checkpointId ?? input.path);
      return startOperation(client, 'restore', request, {
        workflowId: start.workflowId ?? restoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `restore ${target} on ${input.node}`,
      });
    },
    restoreProcess(request, start = {}) {
      const input = parseInput(restoreProcessInput, request);
      const target = String(input.checkpointId ?? input.path);
      return startOperation(client, 'restoreProcess', request, {
        workflowId: start.workflowId ?? restoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `restore the processes of ${target} on ${input.node}`,
      });
    },
    rehearse(request, start = {}) {
      const input = parseInput(rehearseInput, request);
      const target = targetOf(input.container);
      return startOperation(client, 'rehearse', request, {
        workflowId: start.workflowId ?? rehearseWorkflowId(target, start.generation ?? newGeneration()),
        summary: `rehearse ${target} on ${input.node}`,
      });
    },
    verify(request, start = {}) {
      const { checkpointId, node } = parseInput(verifyInput, request);
      return startOperation(client, 'verifyCheckpoint', request, {
        workflowId: start.workflowId ?? verifyWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `verify ${checkpointId} on ${node}`,
      });
    },
    repair(request, start = {}) {
      const { checkpointId, node } = parseInput(repairInput, request);
      return startOperation(client, 'repairCheckpoint', request, {
        workflowId: start.workflowId ?? repairWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `repair ${checkpointId} on ${node}`,
      });
    },
    collectGarbage(request, start = {}) {
      const { dryRun } = parseInput(collectGarbageInput, request);
      return startOperation(client, 'collectGarbage', request, {
        workflowId: start.workflowId ?? collectGarbageWorkflowId(start.generation ?? newGeneration()),
        summary: dryRun ? 'garbage of the store, dry run' : 'garbage of the store',
      });
    },
    prefetch(request, start = {}) {
      const { checkpointId, nodes, tier } = parseInput(prefetchInput, request);
      return startOperation(client, 'prefetch', request, {
        workflowId: start.workflowId ?? prefetchWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `prefetch ${checkpointId} to ${tier} of ${nodes.length === 1 ? (nodes[0] ?? '') : `${nodes.length} nodes`}`,
        ...(start.again === undefined ? {} : { again: start.again }),
      });
    },
    preflight(request, start = {}) {
      const { checkpointId, container, node } = parseInput(preflightInput, request);
      const target = container === undefined ? String(checkpointId) : targetOf(container);
      return startOperation(client, 'preflight', request, {
        workflowId: start.workflowId ?? preflightWorkflowId(target, start.generation ?? newGeneration()),
        summary: `preflight of ${target} on ${node}`,
      });
    },
    listCopies(request, start = {}) {
      const { node } = parseInput(listCopiesInput, request);
      return startOperation(client, 'listCopies', request, {
        workflowId: start.workflowId ?? listCopiesWorkflowId(node, start.generation ?? newGeneration()),
        summary: `copies on ${node}`,
        ...(start.executionTimeoutMs === undefined ? {} : { executionTimeoutMs: start.executionTimeoutMs }),
      });
    },
    deleteCheckpoint(request, start = {}) {
      const { checkpointId } = parseInput(deleteCheckpointInput, request);
      return startOperation(client, 'deleteCheckpoint', request, {
        workflowId: start.workflowId ?? deleteCheckpointWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `delete ${checkpointId}`,
        again: true,
      });
    },
    importCheckpoint(request, start = {}) {
      const { archive, node } = parseInput(importCheckpointInput, request);
      return startOperation(client, 'importCheckpoint', request, {
        workflowId: start.workflowId ?? importCheckpointWorkflowId(archive, start.generation ?? newGeneration()),
        summary: `import ${archive} on ${node}`,
      });
    },
    inspectRestore(request, start = {}) {
      const { pod, node } = parseInput(inspectRestoreInput, request);
      const target = `${pod.uid}/${pod.container}`;
      return startOperation(client, 'inspectRestore', request, {
        workflowId: start.workflowId ?? inspectRestoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `how ${target} was started on ${node}`,
      });
    },
  };
}

function targetOf({ id, pod, docker }: ContainerTarget): string {
  if (docker !== undefined) {
    return `docker/${docker}`;
  }
  return pod === undefined ? String(id) : `${pod.namespace}/${pod.name}/${pod.container}`;
}

/** Sorts by time; two calls in one millisecond differ by chance. */
function newGeneration(): string {
  return `${Date.now().toString(36)}-${Math.floor(Math.random() * 0x1_0000).toString(16)}`;
}
