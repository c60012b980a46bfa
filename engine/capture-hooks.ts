/* The hook scripts of a capture, and the logs that it leaves: the same for containers and processes. */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { HookKind } from '../core/hooks.ts';
import type { CaptureContext } from './capture.ts';
import { createHooks, type HookEvent, type Hooks } from './hooks.ts';

const HOOKS_LOG = 'hooks.log';

export interface CaptureHooksOptions {
  readonly kind: HookKind;
  readonly imageDir: string;
  /** CRIU's, on tmpfs: what hooks print is kept there, too */
  readonly workDir: string;
  /** ends a hook that runs */
  readonly signal: AbortSignal;
}

export interface CaptureHooks extends Pick<Hooks, 'events' | 'warnings'> {
  /**
   * Runs those of the event, if there are any: a part of its own in the phase times. Within the freeze its time counts against
   * the budget, whose end ends a hook.
   * @throws HookFailed
   */
  readonly run: (event: HookEvent) => Promise<void>;
}

export function captureHooks(context: CaptureContext, options: CaptureHooksOptions): CaptureHooks {
  const { plan, timer, log } = context;
  const { kind, imageDir, workDir, signal } = options;
  const { events, warnings, onEvent } = createHooks(
    plan.hooks,
    { signal, log },
    {
      operation: 'checkpoint',
      kind,
      operationId: plan.operationId,
      checkpointId: plan.checkpointId,
      node: plan.settings.node,
      imageDir,
      pid: plan.facts.initHostPid,
      logFile: join(workDir, HOOKS_LOG),
      ...(kind === 'container' ? { container: plan.container } : {}),
      ...(plan.traceparent === undefined ? {} : { traceparent: plan.traceparent }),
    },
  );
  return {
    events,
    warnings,
    run: async (event) => {
      if (events.some((name) => name === event.name)) {
        await timer.within(`hook-${event.name}`, () => onEvent(event));
      }
    },
  };
}

/** Of CRIU, of the runtime where it had one, and of hooks. Never while the workload stands still. */
export async function saveCaptureLogs(
  { plan, run }: Pick<CaptureContext, 'plan' | 'run'>,
  workDir: string,
  logs: string,
): Promise<void> {
  await mkdir(logs, { recursive: true, mode: 0o700 });
  const ofRuntime = plan.facts.tree === undefined ? ['runc.log'] : [];
  const ofHooks = plan.hooks === undefined ? [] : [HOOKS_LOG];
  for (const name of ['dump.log', 'stats-dump', ...ofRuntime, ...ofHooks]) {
    const from = join(workDir, name);
    try {
      await rename(from, join(logs, name));
    } catch {
      // Across file systems, or never written.
      await run('cp', ['--', from, join(logs, name)]);
    }
  }
}
