/*
 * What a restore has made in containerd outlives a reboot, the operation's directory on tmpfs does not. So a note lies on
 * disk, `<stateDir>/restores/<operationId>.json`, from before the container is made until its processes run or it is gone.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { OPERATION_ID_PATTERN, parseOperationId } from '../core/ids.ts';
import type { DockerTraces } from './docker/undo.ts';
import { replaceDurably } from './durable-file.ts';
import type { NodeSettings } from './node-deps.ts';
import { readJson, type OperationPlan } from './operation.ts';

export interface RestoreNote {
  readonly operationId: string;
  readonly workflow: OperationPlan['workflow'];
  readonly container: { readonly namespace: string; readonly id: string };
  readonly token: number;
  /** of the snapshot `kybernate-<operationId>`; empty when there is none of ours */
  readonly snapshotter: string;
  /** as in the record */
  readonly docker?: DockerTraces;
}

type Settings = Pick<NodeSettings, 'stateDir'>;

function notesDir({ stateDir }: Settings): string {
  return join(stateDir, 'restores');
}

function noteFile(settings: Settings, operationId: string): string {
  return join(notesDir(settings), `${parseOperationId(operationId)}.json`);
}

/** Durable when it returns. Crash: the note or none. */
export function writeNote(settings: Settings, note: RestoreNote): void {
  mkdirSync(notesDir(settings), { recursive: true, mode: 0o700 });
  const file = noteFile(settings, note.operationId);
  replaceDurably(file, (temporary) => writeFileSync(temporary, `${JSON.stringify(note)}\n`, { mode: 0o600 }));
}

/** Idempotent. */
export function removeNote(settings: Settings, operationId: string): void {
  rmSync(noteFile(settings, operationId), { force: true });
}

export function readNote(settings: Settings, operationId: string): RestoreNote | undefined {
  return readJson(noteFile(settings, operationId)) as RestoreNote | undefined;
}

/** Ids of the restores that have a note. */
export function listNotes(settings: Settings): string[] {
  let names: string[];
  try {
    names = readdirSync(notesDir(settings));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
  return names
    .map((name) => name.replace(/\.json$/, ''))
    .filter((name) => OPERATION_ID_PATTERN.test(name))
    .sort();
}
