/* How runc comes to start criu-keeper instead of CRIU: see native/src/criu-keeper.c, which says what it is for. */
import { delimiter } from 'node:path';
import { freezerFile } from './freezer.ts';
import type { OperationPlan } from './operation.ts';

/**
 * PATH and variables of runc. With a keeper runc finds it in CRIU's place: when CRIU is killed, the tasks that it held by
 * ptrace wake into the freezer, and none has used a socket in repair mode before the undo comes to it.
 */
export function keeperVariables({
  settings,
  facts,
}: Pick<OperationPlan, 'settings' | 'facts'>): Record<string, string> {
  if (settings.keeperDir === undefined) {
    return { PATH: settings.programPath };
  }
  return {
    PATH: [settings.keeperDir, settings.programPath].join(delimiter),
    KYBERNATE_FREEZER: freezerFile(facts.freezer),
    KYBERNATE_INIT_PID: String(facts.initHostPid),
  };
}
