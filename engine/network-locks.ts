/*
 * Which nftables tables of a container's network namespace belong to one operation: the hold of its connections, and
 * the lock of its own CRIU. In a namespace that other containers share (host network, a pod) another operation's CRIU
 * may be at work beside ours; its table is not ours to judge or to remove.
 */
import { join } from 'node:path';
import { LOG_FILES } from '../core/checkpoint/file-names.ts';
import { criuRunId } from '../native/criu/log.ts';
import { criuTableName, isCriuTable, listTables, type NetworkNamespaceRef, type NftTable } from '../native/net/nft.ts';
import type { OperationPlan } from './operation.ts';
import type { Run } from '../native/run/run.ts';

export interface NetworkLockOwner {
  /** that of the container */
  readonly namespace: NetworkNamespaceRef;
  /** made for this container alone */
  readonly privateNetwork: boolean;
  /** where CRIU's log of this operation may lie, in the order of looking */
  readonly dumpLogs: readonly string[];
  readonly holdTable: string;
}

/** Places of dump.log: CRIU's work directory while it runs, the checkpoint's logs afterwards. */
export function dumpLogPlaces(operationDir: string, checkpointDir: string): string[] {
  return [join(operationDir, 'criu-work', 'dump.log'), join(checkpointDir, LOG_FILES.dump)];
}

/** Empty when the namespace is gone. */
export async function networkLockTables(owner: NetworkLockOwner, run: Run): Promise<NftTable[]> {
  const tables = await listTables(run, owner.namespace);
  if (tables.length === 0) {
    return [];
  }
  const own = new Set([owner.holdTable]);
  for (const file of owner.dumpLogs) {
    const runId = await criuRunId(file);
    if (runId !== undefined) {
      own.add(criuTableName(runId));
    }
  }
  return tables.filter((table) => own.has(table.name) || (owner.privateNetwork && isCriuTable(table)));
}

/** Name of the table that keeps captured connections locked until a restore. */
export function networkHoldTable(operationId: string): string {
  return `kybernate-${operationId.slice(0, 16)}`;
}

/** Will a restore take the connections over? Not in a network namespace that ends with the container. */
export function holdsConnections(plan: OperationPlan): boolean {
  return plan.after === 'stop' && plan.tcp === 'keep' && !plan.facts.networkNamespace.private;
}
