/* What set-up is made of: steps that can tell whether they are needed, and the conversation with the user. */
import type { Env } from './programs.ts';

/**
 * `run`: a node; `demo`, `s3`: the example, its S3 server; `test`: the test projects; `build`: the package;
 * `kubernetes`: the tests on a real cluster, ten minutes the first time.
 */
export const PURPOSES = ['run', 'demo', 's3', 'test', 'build', 'kubernetes'] as const;
export type Purpose = (typeof PURPOSES)[number];

export interface Check {
  readonly ok: boolean;
  readonly version?: string;
  /** where it is, or what is wrong */
  readonly detail: string;
}

export interface Installation {
  readonly env: Env;
  /** file for everything that the programs print */
  readonly logFile: string;
  /** what is being done now; called often */
  readonly progress: (text: string) => void;
}

export interface Step {
  readonly name: string;
  readonly why: string;
  readonly neededFor: readonly Purpose[];
  /** Quick, changes nothing, throws nothing. */
  check(env: Env): Promise<Check>;
  /** Absent: only a person can do it, `remedy` says how. Idempotent; half-made things are not taken for whole. */
  install?(installation: Installation): Promise<void>;
  /** what a person does when it is missing */
  readonly remedy: string;
}

/** Steps for at least one of the purposes, in their order. */
export function stepsFor(steps: readonly Step[], purposes: readonly Purpose[]): Step[] {
  return steps.filter((step) => step.neededFor.some((purpose) => purposes.includes(purpose)));
}
