/*
 * Hook scripts: programs of the node's owner that run at a moment of a checkpoint or of a restore. The moments and their
 * names are CRIU's; engine/hooks.ts finds and runs them, docs/hooks.md says how to write one.
 */

/** The names are CRIU's (`CRTOOLS_SCRIPT_ACTION` of its action scripts). */
export const CRIU_EVENTS = [
  'pre-dump',
  'post-dump',
  'pre-restore',
  'post-restore',
  'pre-resume',
  'post-resume',
  'network-lock',
  'network-unlock',
  'setup-namespaces',
  'post-setup-namespaces',
  'orphan-pts-master',
  'query-ext-files',
] as const;
export type CriuEventName = (typeof CRIU_EVENTS)[number];

export type HookOperation = 'checkpoint' | 'restore';
export type HookKind = 'container' | 'process';
/** `fail`: a hook that does not end well refuses the operation, which is undone; `warn`: the result tells of it */
export type HookPolicy = 'fail' | 'warn';

export interface HookEventRow {
  readonly operations: readonly HookOperation[];
  /** whom CRIU tells of it: runc's own connection alone hears of what only RPC tells */
  readonly kinds: readonly HookKind[];
  /** where CRIU heeds a refusal; in other operations a hook of this event warns, whatever its policy */
  readonly vetoes: readonly HookOperation[];
  /** for docs/hooks.md: the moment, and what the workload does then */
  readonly when: string;
}

/** In the order in which they come. Source: criu 4.2.1, cr-dump.c, cr-restore.c, net.c, tty.c. */
export const HOOK_EVENTS = {
  'pre-dump': {
    operations: ['checkpoint'],
    kinds: ['container', 'process'],
    vetoes: ['checkpoint'],
    when: 'before the freeze: the workload runs',
  },
  'network-lock': {
    operations: ['checkpoint'],
    kinds: ['container', 'process'],
    vetoes: ['checkpoint'],
    when: 'the workload stands still, its packets are about to be held back; only with a network namespace of its own',
  },
  'query-ext-files': {
    operations: ['checkpoint'],
    kinds: ['process'],
    vetoes: ['checkpoint'],
    when: 'the workload stands still, its files are about to be read',
  },
  'post-dump': {
    operations: ['checkpoint'],
    kinds: ['container', 'process'],
    vetoes: ['checkpoint'],
    when: 'the images are written, the workload stands still',
  },
  'pre-restore': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: ['restore'],
    when: 'before the first process is made',
  },
  'setup-namespaces': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: ['restore'],
    when: 'the first process is there, in namespaces that are still empty',
  },
  'post-setup-namespaces': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: ['restore'],
    when: 'the namespaces are as they were: mounts, addresses, routes',
  },
  'orphan-pts-master': {
    operations: ['restore'],
    kinds: ['process'],
    vetoes: ['restore'],
    when: 'a terminal was made; its master side is descriptor 4 (`KYBERNATE_PTS_MASTER_FD`)',
  },
  'post-restore': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: ['restore'],
    when: 'every process is there and stands still',
  },
  'network-unlock': {
    operations: ['checkpoint', 'restore'],
    kinds: ['container', 'process'],
    vetoes: ['checkpoint'],
    when: 'packets are about to flow again, the workload stands still; only with a network namespace of its own',
  },
  'pre-resume': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: [],
    when: 'the last moment in which the processes stand still',
  },
  'post-resume': {
    operations: ['restore'],
    kinds: ['container', 'process'],
    vetoes: [],
    when: 'the processes run',
  },
} as const satisfies Record<CriuEventName, HookEventRow>;

export function hookEvent(name: CriuEventName): HookEventRow {
  return HOOK_EVENTS[name];
}

export function isCriuEvent(name: string): name is CriuEventName {
  return Object.hasOwn(HOOK_EVENTS, name);
}

/** What a node is told of its hooks, once. */
export interface HookSettings {
  /** absolute; one directory an event below it, `<dir>/<event>/*` */
  readonly dir: string;
  /** of each hook */
  readonly timeoutMs: number;
  /** of events that are not named: `fail` */
  readonly policies: Readonly<Partial<Record<CriuEventName, HookPolicy>>>;
}

/** What runs in one operation. It is kept with the operation, so another process runs the same. */
export interface HookPlan {
  readonly timeoutMs: number;
  readonly events: Readonly<Partial<Record<CriuEventName, HooksOfEvent>>>;
}

export interface HooksOfEvent {
  readonly policy: HookPolicy;
  /** absolute, in the order in which they run */
  readonly files: readonly string[];
}

/** Names of the events that have a hook. */
export function eventsOf(plan: HookPlan | undefined): readonly CriuEventName[] {
  return CRIU_EVENTS.filter((name) => plan?.events[name] !== undefined);
}

/**
 * @param text `fail`, `warn`, or such for one event: `fail,pre-dump=warn`
 * @returns what is wrong with it, as text
 */
export function parseHookPolicies(text: string): HookSettings['policies'] | string {
  const policies: Partial<Record<CriuEventName, HookPolicy>> = {};
  for (const part of text.split(',').map((word) => word.trim())) {
    const [event = '', policy] = part.includes('=') ? part.split('=') : ['*', part];
    if (policy !== 'fail' && policy !== 'warn') {
      return `${JSON.stringify(part)}: write fail or warn, or an event and one of them: fail,pre-dump=warn`;
    }
    if (event === '*') {
      CRIU_EVENTS.forEach((name) => (policies[name] ??= policy));
    } else if (!isCriuEvent(event)) {
      return `${event} is no event; these are: ${CRIU_EVENTS.join(', ')}`;
    } else if (policy === 'fail' && hookEvent(event).vetoes.length === 0) {
      return `${event}=fail: CRIU goes on whatever a hook of ${event} says; it can only warn`;
    } else {
      policies[event] = policy;
    }
  }
  return policies;
}
