/* One `runc create` on its way to a restore: what it works with and how far it has come. */
import type { PrepareRestoreResponse } from '../../core/contract/restore.ts';
import type { RestoreWish } from '../../core/oci/annotations.ts';
import type { RuncCommand, RuncCreate } from '../../core/oci/runc-argv.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import type { Run, RunOptions, RunResult } from '../../native/run/run.ts';
import type { Agent } from './node-socket.ts';
import type { PristineRootfs } from './pristine-rootfs.ts';

export interface WrapperDeps {
  readonly runcPath: string;
  /** of the node worker: wishes for containers lie there */
  readonly runDir: string;
  readonly agent: Agent;
  readonly run: Run;
  /** starts a program on our own stdin, stdout and stderr: those of the container */
  readonly runInherited: (file: string, args: readonly string[], options: RunOptions) => Promise<RunResult>;
  readonly env: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  /** one line for the runtime's log; the shim reports the last one of level `error` */
  readonly log: (command: RuncCommand, level: 'error' | 'warning' | 'info', message: string) => void;
}

export interface Job {
  readonly create: RuncCreate;
  readonly bundle: string;
  readonly configFile: string;
  /** text of config.json as its creator wrote it */
  readonly original: string;
  readonly spec: OciSpec;
  readonly wish: RestoreWish;
  readonly begun: number;
  prepared?: PrepareRestoreResponse;
  /** set before the rw layer is unpacked */
  pristine?: PristineRootfs;
  /** directories outside the container into which files of the checkpoint were put, and which were empty before */
  readonly filled: FilledDirectory[];
  /** of the shared UTS namespace, into which CRIU writes that of the dump, in a failing restore too */
  hostname?: { readonly namespacePath: string; readonly name: string };
  specReplaced: boolean;
  runcStarted: boolean;
  /** the operation that made the container will try once more: no cold start now */
  again?: boolean;
  readonly parts: Record<string, number>;
  /** of the same parts, when they were */
  readonly spans: WrapperSpan[];
  /** of hook scripts that failed and may not refuse */
  warnings: readonly string[];
  /** a hook script refused the restore */
  refusedByHook?: boolean;
  /** of a pod: from the first attempt to the begin of this one, in ms */
  waitedMs?: number;
}

export interface FilledDirectory {
  readonly dir: string;
  /** what was put there */
  readonly tar: string;
  /** as it was: an archive has those of the source */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** As its user knows it: a container of a pod by the pod, whose own id says nothing to him. */
export function nameOf({ create, wish: { pod } }: Job): string {
  return pod === undefined ? `container ${create.id}` : [pod.namespace, pod.name, pod.container ?? create.id].join('/');
}

export interface WrapperSpan {
  readonly name: string;
  /** ms since 1970 */
  readonly startMs: number;
  readonly endMs: number;
}

/** The shim's runc root is `<root>/<containerd namespace>`; for other callers the name says nothing and is harmless. */
export function containerOf(command: RuncCommand): { id: string; namespace: string } {
  return { id: command.id, namespace: command.root.replace(/\/+$/, '').split('/').at(-1) ?? '' };
}

/** Runs `act` and notes its duration in ms as `<name>Ms`. */
export async function timed<Result>(
  { parts, spans }: Pick<Job, 'parts' | 'spans'>,
  name: string,
  act: () => Promise<Result>,
): Promise<Result> {
  const begun = performance.now();
  try {
    return await act();
  } finally {
    const ended = performance.now();
    parts[`${name}Ms`] = ended - begun;
    spans.push({ name, startMs: performance.timeOrigin + begun, endMs: performance.timeOrigin + ended });
  }
}
