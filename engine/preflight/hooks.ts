/* Would the hooks of this node run in such an operation? One that may refuse and cannot run is a reason against it. */
import { CRIU_EVENTS, eventsOf, type HookPolicy, type HookSettings } from '../../core/hooks.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import type { Trust } from '../hook-file.ts';
import { findHooks, planHooks, refusedHooks, type HookFacts } from '../hooks.ts';

/** With the engine `containerd` CRIU is not ours to ask. */
const EVENTS_OF_CONTAINERD: readonly string[] = ['pre-dump', 'post-dump'];

export interface HookUse extends Pick<HookFacts, 'operation' | 'kind'> {
  readonly engine?: 'runc' | 'containerd';
}

export function hookFindings(settings: HookSettings | undefined, use: HookUse, trust?: Trust): Finding[] {
  if (settings === undefined) {
    return [];
  }
  const plan = planHooks(settings, use);
  const told = (policy: HookPolicy, message: string): Finding =>
    policy === 'fail' ? problem('hooks', message) : caution('hooks', message);
  const refused = refusedHooks(plan, trust).map(({ event, policy, why }) =>
    told(policy, `a hook of ${event} is refused: ${why}`),
  );
  const unasked =
    use.engine === 'containerd' ? eventsOf(plan).filter((name) => !EVENTS_OF_CONTAINERD.includes(name)) : [];
  return [
    ...refused,
    ...unasked.map((name) =>
      told(
        plan?.events[name]?.policy ?? 'fail',
        `the engine containerd has no moment ${name}, for which there are hooks: use the engine runc`,
      ),
    ),
    ...strangeHooks(settings).map((message) => caution('hooks', message)),
  ];
}

/** What lies in the directory and is never run: most likely a name that was misspelt. */
export function strangeHooks(settings: HookSettings): readonly string[] {
  return findHooks(settings).strange.map(
    (path) => `${path} is no hook and never runs: hooks lie in directories of these names: ${CRIU_EVENTS.join(', ')}`,
  );
}
