import {
  importCheckpointInput,
  type ImportCheckpointRequest,
  type ImportCheckpointResult,
} from '../core/contract/import-checkpoint.ts';
import { Compensation } from './compensation.ts';
import { runOperation } from './operation.ts';
import { checkProtocol, checkStore } from './probe.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies } from './proxies.ts';
import { storeCheckpoint } from './store-checkpoint.ts';

/**
 * Makes a checkpoint from an archive that the kubelet's checkpoint API has left on a node, and sends it to the store as
 * `durability` says. The archive stays. An import that fails leaves nothing; once it is done nothing takes it back, and the
 * same request again finds it there and goes on with the upload.
 */
export async function importCheckpoint(request: ImportCheckpointRequest): Promise<ImportCheckpointResult> {
  const input = parseRequest(importCheckpointInput, request);
  const { node, archive, checkpointId: wanted, podNamespace, labels, durability, timeouts } = input;
  const progress = new ProgressTracker({
    node,
    container: archive,
    ...(wanted === undefined ? {} : { checkpointId: wanted }),
    firstPhase: 'probing',
  });
  const steps = nodeProxies({ node, timeouts, summary: `${archive} on ${node}` });
  const frame = {
    node,
    progress,
    undo: new Compensation(),
    delivered: () => Promise.resolve(),
    facts: ({ totalBytes, storedBytes }: ImportCheckpointResult) => ({ bytes: totalBytes, storedBytes }),
  };
  return runOperation(frame, async () => {
    const probe = await steps.probe.probeNode(durability === 'local' ? {} : { store: true });
    checkProtocol(probe, node);
    checkStore(probe, input);
    progress.enter('importing');
    const imported = await steps.fetch.importArchive({
      archive,
      ...(wanted === undefined ? {} : { checkpointId: wanted }),
      ...(podNamespace === undefined ? {} : { podNamespace }),
      labels,
    });
    const { checkpointId } = imported;
    const { sentBytes, remote } = await storeCheckpoint(steps, progress, { checkpointId, durability });
    return { ...imported, node, durability, storedBytes: sentBytes, ...(remote === undefined ? {} : { remote }) };
  });
}
