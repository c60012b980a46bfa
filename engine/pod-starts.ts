/*
 * Which containers of pods have had their first start: a restart after a crash must not rewind one to its checkpoint. The
 * notes are empty files, `<stateDir>/pod-starts/<pod uid>.<container>`, and survive a reboot as the pod does. The wrapper
 * looks at them by the link `<runDir>/pod-starts`, so that a restart needs no agent; they are made when containerd says
 * `start` (shim/kybernate-runc), for a container that was made and never started has not started. On a full disk a note
 * could not be made by then, and without it a crash would rewind what runs: so both the note and `<note>.unstarted`, which
 * says that it does not count yet, are made before the restore, and `start` takes the latter away, which needs no room.
 * A reboot takes the link, and kubelet may make containers before the first agent has put it back: until then nobody can
 * know. How a container that asked for a restore began is noted beside them, `<pod uid>.<container>.outcome`, by the
 * wrapper, which alone knows it.
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
import { KybernateError, messageOf } from '../core/errors.ts';
import { POD_CONTAINER_PATTERN, POD_UID_PATTERN } from '../core/ids.ts';
import { CRI_ANNOTATIONS, type PodOfWish, type RestoreWish } from '../core/oci/annotations.ts';
import { NO_SPACE } from './disk-full.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';

const DIR = 'pod-starts';
const UNSTARTED = '.unstarted';
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

type StartWish = Pick<RestoreWish, 'pod' | 'everyStart'>;

function firstStartNote(runDir: string, { pod, everyStart }: StartWish): string | undefined {
  return everyStart === true ? undefined : startNote(runDir, pod);
}

/** Is this a later start of a container that is restored at its first one only? */
export function hasStarted(runDir: string, wish: StartWish): boolean {
  const note = firstStartNote(runDir, wish);
  return note !== undefined && existsSync(note) && !existsSync(`${note}${UNSTARTED}`);
}

/** May it have started before, in a time of the node whose notes no agent has brought back yet? */
export function mayHaveStarted(runDir: string, wish: StartWish): boolean {
  const note = firstStartNote(runDir, wish);
  return note !== undefined && lstatSync(join(runDir, DIR), { throwIfNoEntry: false })?.isSymbolicLink() !== true;
}

/**
 * Makes room for the note of a start that is still to come; idempotent. What comes of the restore changes nothing of it.
 * @throws DiskFull, NodeUnavailable (a disk that is read-only, say): a restore now could be rewound by a crash later
 * Crash: `.unstarted` alone means nothing.
 */
export function reserveStartNote(runDir: string, wish: StartWish): void {
  const note = firstStartNote(runDir, wish);
  if (note !== undefined && !existsSync(note)) {
    writeNote(`${note}${UNSTARTED}`);
    writeNote(note);
  }
}

/**
 * From now on it has. For a cold start, which no `start` of ours tells of. Where there is no agent yet the note waits in a
 * directory in place of the link.
 * @throws DiskFull, NodeUnavailable
 */
export function noteStart(runDir: string, wish: StartWish): void {
  const note = firstStartNote(runDir, wish);
  if (note !== undefined) {
    mkdirSync(runDir, { recursive: true, mode: 0o711 });
    if (!existsSync(join(runDir, DIR))) {
      mkdirSync(join(runDir, DIR), { mode: 0o700 });
    }
    writeNote(note);
    rmSync(`${note}${UNSTARTED}`, { force: true });
  }
}

function writeNote(file: string): void {
  try {
    writeFileSync(file, '', { mode: 0o600 });
  } catch (error) {
    const why = messageOf(error);
    throw new KybernateError(
      NO_SPACE.test(why) ? 'DiskFull' : 'NodeUnavailable',
      `the node cannot note the first start of this container (${why}), and without the note a crash would rewind it to ` +
        'its checkpoint; nothing was started: make room on the disk of the state directory, the next attempt goes on',
      { details: { file }, cause: error },
    );
  }
}

/**
 * Notes the first attempt to restore a pod's container.
 * @returns ms since then; 0 where nobody can know
 * @throws DiskFull, NodeUnavailable
 */
export function msSinceFirstAttempt(runDir: string, pod: PodOfWish | undefined): number {
  const note = startNote(runDir, pod);
  if (note === undefined || !existsSync(join(runDir, DIR))) {
    return 0;
  }
  const first = `${note}.attempt`;
  if (!existsSync(first)) {
    writeNote(first);
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
    readdirSync(link).forEach((name) => rmSync(join(dir, `${name}${UNSTARTED}`), { force: true }));
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
