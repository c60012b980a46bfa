import type { Logger } from '../../core/op.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import type { NodeDeps, NodeSettings } from '../node-deps.ts';

/** No Temporal, and containerd only where it may be asked to do what it knows best: both may be what is down. */
export interface RescueDeps extends Pick<NodeDeps, 'run' | 'gpu'> {
  readonly settings: Pick<NodeSettings, 'runDir' | 'stateDir'>;
  readonly log: Logger;
  /** @param address of the socket */
  readonly containerd: (address: string) => Pick<Containerd, 'resumeTask' | 'close'>;
}

/**
 * `poisoned`: an undo was begun, and its end was not verified. `stands still`: a workload does not run, and nobody lets it.
 * `left`: nothing stands still by it. `at work`: a live runner has it. `on purpose`: somebody may want it so.
 */
export type FindingState = 'poisoned' | 'stands still' | 'left' | 'at work' | 'on purpose';

export interface Finding {
  readonly kind: 'operation' | 'restore' | 'file' | 'cgroup' | 'mount' | 'network lock' | 'GPU process' | 'container';
  /** operation id, path, pid, or the name of a table: what the command takes as its argument, too */
  readonly id: string;
  /** `<namespace>/<id>`; absent where it is not known */
  readonly container?: string;
  readonly state: FindingState;
  readonly detail: string;
  /** what to do */
  readonly remedy: string;
  /**
   * Repairs it and reads back; says what was done. Absent: it cannot be repaired from here.
   * @throws what is left then
   */
  readonly repair?: () => Promise<string>;
}
