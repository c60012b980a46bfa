/* The registry of queue `kybernate`: what needs no node. */
import type { LockInput } from '../../core/contract/lock.ts';
import type { Backend } from '../../store/backend/backend.ts';
import type { ControlActivities, GarbageActivities } from '../contract.ts';
import { catalogActivities } from './catalog.ts';
import { garbageActivities } from './garbage.ts';
import { lockActivities } from './locks.ts';

export interface ControlActivityDeps {
  readonly backend?: () => Promise<Backend>;
  /** how locks that are started here watch their holders and end */
  readonly lock?: LockInput;
}

export function createControlActivities(deps: ControlActivityDeps): ControlActivities & GarbageActivities {
  return {
    ...lockActivities(deps.lock),
    ...catalogActivities(deps.backend),
    ...garbageActivities(deps.backend),
  };
}
