/* What a story of the fault table is: the steps of a workflow in order, and what follows when one of them fails. */
import type { Scenario, StepName } from './harness.ts';

export const FAULTS = ['throws', 'hangs', 'node gone', 'cancelled', 'terminated'] as const;
export type Fault = (typeof FAULTS)[number];

export interface Expected {
  /** what follows the step */
  readonly follows: readonly string[];
  /** `done`, `Cancelled`, `Terminated`, or an error type */
  readonly outcome: string;
}

/**
 * The step (`fetchImage 2`: its second activity), what follows when it fails, and the faults that are answered otherwise.
 */
export type Row = readonly [step: StepName | `${StepName} 2`, follows: readonly string[], differs?: Differs];
export type Differs = Partial<Record<Fault, Partial<Expected>>>;

export interface Story {
  readonly type: string;
  /** absent: the run is the lock of a holder that ended without letting go, and somebody comes to wait for it */
  readonly request?: (id: string, timeouts: object) => object;
  /** what steps answer besides their happy results; made anew for every run */
  readonly steps?: () => Scenario['steps'];
  readonly order: readonly string[];
  /** `done`, or what the story ends with where `steps` make it fail */
  readonly outcome?: string;
  /** the rows are steps of the undo: tried until they succeed, and out of reach of a cancellation */
  readonly undo?: boolean;
  /** steps of the story that a cancellation does not reach either */
  readonly deaf?: readonly StepName[];
  /** absent: all of them; the others are answered as in another story of the workflow */
  readonly faults?: readonly Fault[];
  readonly rows: readonly Row[];
}

export const SCRIPTED_TYPE = 'DumpFailed';
