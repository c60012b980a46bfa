/*
 * Which containers of pods have had their first start: a restart after a crash must not rewind one to its checkpoint. The
 * notes are empty files, `<stateDir>/pod-starts/<pod uid>.<container>`, and survive a reboot as the pod does. The wrapper
 * looks at them by the link `<runDir>/pod-starts`, so that a restart needs no agent; they are made when containerd says
 * `start` (shim/kybernate-runc), for a container that was made and never started has not started. A reboot takes the link,
 * and kubelet may make containers before the first agent has put it back: until then nobody can know. How a container that
 * asked for a restore began is noted beside them, `<pod uid>.<container>.outcome`, by the wrapper, which alone knows it.
 */
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { StartOutcome } from '../core/contract/inspect-restore.ts';
import { messageOf } from '../core/errors.ts';
import { POD_CONTAINER_PATTERN, POD_UID_PATTERN } from '../core/ids.ts';
import { CRI_ANNOTATIONS, type PodOfWish, type RestoreWish } from '../core/oci/annotations.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';

const DIR = 'pod-starts';
/** Longer than any pod is without a container record of containerd. */
const FORGET_MS = 86_400_000;

/**
 * @param runDir of the node worker
 * @returns undefined where there is no pod, or nothing names it for good
 */
export function startNote(runDir: string, pod: PodOfWish | undefined): string | undefined {
  const { uid, container } = pod ?? {};
  return uid === undefined ||
    container === undefined ||
    !POD_UID_PATTERN.test(uid) ||
    !POD_CONTAINER_PATTERN.test(container)
    ? undefined
    : join(runDir, DIR, `${uid}.${container}`);
}

/** Is this a later start of a container that is restored at its first one only? */
export function hasStarted(runDir: string, wish: Pick<RestoreWish, 'pod' | 'everyStart'>): boolean {
  const note = wish.everyStart === true ? undefined : startNote(runDir, wish.pod);
  return note !== undefined && existsSync(note);
}

/** May it have started before, in a time of the node whose notes no agent has brought back yet? */
export function mayHaveStarted(runDir: string, wish: Pick<RestoreWish, 'pod' | 'everyStart'>): boolean {
  const note = wish.everyStart === true ? undefined : startNote(runDir, wish.pod);
  return note !== undefined && lstatSync(join(runDir, DIR), { throwIfNoEntry: false })?.isSymbolicLink() !== true;
}

/**
 * From now on it has. For a cold start, which no `start` of ours tells of. Where there is no agent yet the note waits in a
 * directory in place of the link.
 */
export function noteStart(runDir: string, wish: Pick<RestoreWish, 'pod' | 'everyStart'>): void {
  const note = wish.everyStart === true ? undefined : startNote(runDir, wish.pod);
  if (note !== undefined) {
    mkdirSync(runDir, { recursive: true, mode: 0o711 });
    if (!existsSync(join(runDir, DIR))) {
      mkdirSync(join(runDir, DIR), { mode: 0o700 });
    }
    writeFileSync(note, '', { mode: 0o600 });
  }
}

/**
 * Notes the first attempt to restore a pod's container.
 * @returns ms since then; 0 where nobody can know
 */
export function msSinceFirstAttempt(runDir: string, pod: PodOfWish | undefined): number {
  const note = startNote(runDir, pod);
  if (note === undefined || !existsSync(join(runDir, DIR))) {
    return 0;
  }
  const first = `${note}.attempt`;
  if (!existsSync(first)) {
    writeFileSync(first, '', { mode: 0o600 });
  }
  return Math.max(0, Date.now() - statSync(first).mtimeMs);
}

/**
 * Notes how a container of a pod begins: the last start that asked for a restore counts. What runs must not end for a note
 * that cannot be written.
 * @returns why it could not be written; undefined when it was, or where nobody would read it
 */
export function noteOutcome(
  runDir: string,
  { pod, restoreFrom }: Pick<RestoreWish, 'pod' | 'restoreFrom'>,
  outcome: Pick<StartOutcome, 'how' | 'reason'>,
): string | undefined {
  const note = startNote(runDir, pod);
  if (note === undefined || !existsSync(join(runDir, DIR))) {
    return undefined;
  }
  const said: StartOutcome = { ...outcome, restoreFrom, at: new Date().toISOString() };
  const file = `${note}.outcome`;
  try {
    writeFileSync(`${file}.new`, JSON.stringify(said), { mode: 0o600 });
    renameSync(`${file}.new`, file);
    return undefined;
  } catch (error) {
    // ENOSPC and its like.
    return messageOf(error);
  }
}

/** @returns undefined when no start of it that asked for a restore came so far */
export function readOutcome(
  runDir: string,
  pod: { readonly uid: string; readonly container: string },
): StartOutcome | undefined {
  const note = startNote(runDir, { ...pod, namespace: '', name: '', named: false });
  return note === undefined || !existsSync(`${note}.outcome`)
    ? undefined
    : (JSON.parse(readFileSync(`${note}.outcome`, 'utf8')) as StartOutcome);
}

/** Idempotent. The link is replaced at once: wrappers look at any time. What they have noted without it is kept. */
export function openPodStarts({ runDir, stateDir }: Pick<NodeSettings, 'runDir' | 'stateDir'>): void {
  const dir = join(stateDir, DIR);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  mkdirSync(runDir, { recursive: true, mode: 0o711 });
  const link = join(runDir, DIR);
  if (lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() === false) {
    cpSync(link, dir, { recursive: true, force: false, preserveTimestamps: true });
    rmSync(link, { recursive: true });
  }
  const temporary = `${link}.${process.pid}`;
  rmSync(temporary, { force: true });
  symlinkSync(dir, temporary);
  renameSync(temporary, link);
}

/** Notes of pods that have left this node. @returns their number */
export async function forgetEndedPods({
  settings,
  containerd,
}: Pick<NodeDeps, 'settings' | 'containerd'>): Promise<number> {
  const dir = join(settings.stateDir, DIR);
  const old = (existsSync(dir) ? readdirSync(dir) : []).filter((name) => {
    const stats = statSync(join(dir, name), { throwIfNoEntry: false });
    return stats !== undefined && Date.now() - stats.mtimeMs > FORGET_MS;
  });
  if (old.length === 0) {
    return 0;
  }
  const alive = new Set(
    (await containerd.listContainers('k8s.io', [])).flatMap(({ labels }) =>
      CRI_ANNOTATIONS.podUid.flatMap((key) => labels[key] ?? []),
    ),
  );
  const ended = old.filter((name) => !alive.has(name.split('.', 1)[0] ?? ''));
  ended.forEach((name) => rmSync(join(dir, name), { force: true }));
  return ended.length;
}
