/*
 * How long a container of a pod may stand still before its kubelet takes it for dead. containerd does not know of
 * probes: whoever can read the pod tells which one the container has.
 */
import * as z from 'zod';

const seconds = z.int().min(1).max(86_400);

/** The probe by which a kubelet restarts a container; names and defaults are those of a pod's specification. */
export const livenessProbe = z.strictObject({
  periodSeconds: seconds.default(10),
  timeoutSeconds: seconds.default(1),
  failureThreshold: z.int().min(1).max(10_000).default(3),
});
export type LivenessProbe = z.output<typeof livenessProbe>;

const DEFAULT_FREEZE_BUDGET_MS = 60_000;
/** A workload whose runner hangs stands still for its budget and a second at most: the guard's part. */
const GUARD_MS = 1000;

/**
 * The first probe that gets no answer may begin with the freeze, the next ones follow by the period (one at a time), and
 * the last one that must be answered is given its own timeout for that.
 * Source: Kubernetes, pkg/kubelet/prober/worker.go.
 */
export function allowedStandstillMs({ periodSeconds, timeoutSeconds, failureThreshold }: LivenessProbe): number {
  return ((failureThreshold - 1) * Math.max(periodSeconds, timeoutSeconds) + timeoutSeconds) * 1000;
}

export interface StandstillWish {
  /** absent: as long as it makes sense, and the probe allows */
  readonly freezeBudgetMs?: number | undefined;
  readonly holdBudgetMs: number;
  readonly after: 'resume' | 'hold' | 'stop';
  /** absent: nobody restarts the container */
  readonly livenessProbe?: LivenessProbe | undefined;
}

export interface Standstill {
  readonly freezeBudgetMs: number;
  /** why the kubelet would restart a source that is to run on; absent: it would not */
  readonly refusal?: string;
  /** of a source that is to end anyway */
  readonly warning?: string;
}

/** How long the source may stand still, and whether its liveness probe allows that. */
export function planStandstill({
  freezeBudgetMs: asked,
  holdBudgetMs,
  after,
  livenessProbe,
}: StandstillWish): Standstill {
  if (livenessProbe === undefined) {
    return { freezeBudgetMs: asked ?? DEFAULT_FREEZE_BUDGET_MS };
  }
  const { periodSeconds, timeoutSeconds, failureThreshold } = livenessProbe;
  const allowedMs = allowedStandstillMs(livenessProbe);
  const most = Math.max(allowedMs - GUARD_MS, allowedMs / 2);
  const freezeBudgetMs = asked ?? Math.min(DEFAULT_FREEZE_BUDGET_MS, most);
  const allows =
    `its liveness probe allows ${allowedMs} ms (periodSeconds ${periodSeconds}, timeoutSeconds ${timeoutSeconds}, ` +
    `failureThreshold ${failureThreshold})`;
  if (freezeBudgetMs > allowedMs) {
    return {
      freezeBudgetMs,
      refusal:
        `${allows}, the freeze budget is ${freezeBudgetMs} ms, and the kubelet would restart it: give a freezeBudgetMs ` +
        `of at most ${allowedMs}, or none, or give the probe more time`,
    };
  }
  const heldMs = freezeBudgetMs + holdBudgetMs;
  if (after === 'hold' && heldMs > allowedMs) {
    return {
      freezeBudgetMs,
      refusal:
        `${allows}, a source that is held may stand still for ${heldMs} ms (freezeBudgetMs ${freezeBudgetMs} and ` +
        `holdBudgetMs ${holdBudgetMs}), and the kubelet would restart it: give a shorter holdBudgetMs, or give the ` +
        'probe more time',
    };
  }
  if (after === 'stop' && heldMs > allowedMs) {
    return {
      freezeBudgetMs,
      warning: `${allows}: the kubelet may end the source before its checkpoint has come as far as was asked`,
    };
  }
  return { freezeBudgetMs };
}
