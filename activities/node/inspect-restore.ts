import type { InspectRestoreResult } from '../../core/contract/inspect-restore.ts';
import { readOutcome } from '../../engine/pod-starts.ts';
import type { InspectRestoreStepInput } from '../contract.ts';
import type { NodeActivityDeps } from './deps.ts';

/** What the runtime has noted on this node, which outlives the restore, the worker and a reboot. */
export function inspectRestore(
  { node: { settings } }: Pick<NodeActivityDeps, 'node'>,
  { node, pod }: InspectRestoreStepInput,
): InspectRestoreResult {
  const outcome = readOutcome(settings.runDir, pod);
  return { node, ...(outcome === undefined ? {} : { outcome }) };
}
