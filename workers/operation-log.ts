/* The log of a runner or a guard: into the operation's directory, for its errors, and to the node worker that collects it. */
import { appendFileSync } from 'node:fs';
import { pino, type Logger as Pino } from 'pino';
import { appendNodeLog } from '../engine/node-log.ts';
import type { OperationPlan } from '../engine/operation.ts';

export function operationLog(process: 'runner' | 'guard', plan: OperationPlan, file: string): Pino {
  const { operationId, checkpointId, workflow, container, settings } = plan;
  const { workflowId, runId } = workflow;
  const base = { process, node: settings.node, operationId, workflowId, runId, checkpointId };
  return pino(
    { base: { ...base, container: `${container.namespace}/${container.id}` } },
    {
      write(line: string) {
        try {
          appendFileSync(file, line, { mode: 0o600 });
        } catch {
          // No room for a line of the log: the workload may stand still, and nothing may keep it so.
        }
        appendNodeLog(settings.runDir, line);
      },
    },
  );
}
