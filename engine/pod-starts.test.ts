import { existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NodeDeps } from './node-deps.ts';
import {
  forgetEndedPods,
  hasStarted,
  mayHaveStarted,
  msSinceFirstAttempt,
  noteOutcome,
  noteStart,
  openPodStarts,
  readOutcome,
  reserveStartNote,
  startNote,
} from './pod-starts.ts';

const POD = { namespace: 'shop', name: 'web-0', uid: 'u-1', container: 'app', named: false };

let dir: string;
let settings: { readonly runDir: string; readonly stateDir: string };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-starts-'));
  settings = { runDir: join(dir, 'run'), stateDir: join(dir, 'state') };
  openPodStarts(settings);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('a start is known for that container of that pod alone, also after a reboot', () => {
  noteStart(settings.runDir, { pod: POD });

  rmSync(settings.runDir, { recursive: true });
  expect(hasStarted(settings.runDir, { pod: POD })).toBe(false);
  openPodStarts(settings);

  expect(hasStarted(settings.runDir, { pod: POD })).toBe(true);
  expect(hasStarted(settings.runDir, { pod: { ...POD, container: 'other' } })).toBe(false);
  expect(hasStarted(settings.runDir, { pod: { ...POD, uid: 'u-2' } })).toBe(false);
  expect(hasStarted(settings.runDir, { pod: POD, everyStart: true })).toBe(false);
});

test('a note that is made before the restore counts when the start has taken away what says that it does not', () => {
  reserveStartNote(settings.runDir, { pod: POD });
  reserveStartNote(settings.runDir, { pod: POD });
  expect(hasStarted(settings.runDir, { pod: POD })).toBe(false);

  rmSync(join(settings.stateDir, 'pod-starts/u-1.app.unstarted'));
  reserveStartNote(settings.runDir, { pod: POD });
  expect(hasStarted(settings.runDir, { pod: POD })).toBe(true);
});

test('a cold start counts also where a restore was to come, with an agent and without', () => {
  reserveStartNote(settings.runDir, { pod: POD });
  noteStart(settings.runDir, { pod: POD });
  expect(hasStarted(settings.runDir, { pod: POD })).toBe(true);

  const other = { pod: { ...POD, container: 'other' } };
  reserveStartNote(settings.runDir, other);
  rmSync(settings.runDir, { recursive: true });
  noteStart(settings.runDir, other);
  openPodStarts(settings);
  expect(hasStarted(settings.runDir, other)).toBe(true);
});

test('what is no name of Kubernetes never becomes a path', () => {
  expect(startNote(settings.runDir, { ...POD, uid: '../../etc' })).toBeUndefined();
  expect(startNote(settings.runDir, { ...POD, container: 'a/b' })).toBeUndefined();
  expect(startNote(settings.runDir, { namespace: 'shop', name: 'web-0', named: false })).toBeUndefined();
});

test('nobody knows what has started before the first agent of a node has come up', () => {
  expect(mayHaveStarted(settings.runDir, { pod: POD })).toBe(false);

  rmSync(settings.runDir, { recursive: true });
  expect(mayHaveStarted(settings.runDir, { pod: POD })).toBe(true);
  expect(mayHaveStarted(settings.runDir, { pod: POD, everyStart: true })).toBe(false);
  expect(mayHaveStarted(settings.runDir, {})).toBe(false);
});

test('a start that is noted before there is an agent is known to it, and what it knew of before stays', () => {
  noteStart(settings.runDir, { pod: { ...POD, container: 'earlier' } });
  rmSync(settings.runDir, { recursive: true });

  noteStart(settings.runDir, { pod: POD });
  expect(hasStarted(settings.runDir, { pod: POD })).toBe(true);
  expect(mayHaveStarted(settings.runDir, { pod: { ...POD, container: 'earlier' } })).toBe(true);
  openPodStarts(settings);

  expect(existsSync(join(settings.stateDir, 'pod-starts/u-1.app'))).toBe(true);
  expect(hasStarted(settings.runDir, { pod: { ...POD, container: 'earlier' } })).toBe(true);
});

test('the first attempt is remembered, and nothing where no agent has been', () => {
  expect(msSinceFirstAttempt(settings.runDir, POD)).toBeLessThan(5000);
  const past = Date.now() / 1000 - 100;
  utimesSync(join(settings.stateDir, 'pod-starts/u-1.app.attempt'), past, past);

  expect(msSinceFirstAttempt(settings.runDir, POD)).toBeGreaterThan(99_000);
  expect(msSinceFirstAttempt(join(dir, 'nowhere'), POD)).toBe(0);
});

test('how a container began is known of its last start that asked for a restore, also after a reboot', () => {
  const wish = { pod: POD, restoreFrom: 'ck-1' };
  const pod = { uid: POD.uid, container: POD.container };

  expect(readOutcome(settings.runDir, pod)).toBeUndefined();
  expect(noteOutcome(settings.runDir, wish, { how: 'cold-started', reason: 'the store is away' })).toBeUndefined();
  expect(readOutcome(settings.runDir, pod)).toMatchObject({ how: 'cold-started', reason: 'the store is away' });
  noteOutcome(settings.runDir, wish, { how: 'restored' });
  rmSync(settings.runDir, { recursive: true });
  openPodStarts(settings);

  expect(readOutcome(settings.runDir, pod)).toEqual({
    how: 'restored',
    restoreFrom: 'ck-1',
    at: expect.stringMatching(/^\d{4}-/) as string,
  });
  expect(readOutcome(settings.runDir, { ...pod, container: 'other' })).toBeUndefined();
});

test('a note that cannot be written ends nothing: it is told', () => {
  mkdirSync(join(settings.stateDir, 'pod-starts/u-1.app.outcome/full'), { recursive: true });

  expect(noteOutcome(settings.runDir, { pod: POD, restoreFrom: 'ck-1' }, { how: 'restored' })).toMatch(
    /EISDIR|ENOTEMPTY/,
  );
  expect(noteOutcome(join(settings.runDir, 'nowhere'), { pod: POD, restoreFrom: 'x' }, { how: 'restored' })).toBe(
    undefined,
  );
});

test('notes go a day later, when containerd knows no container of the pod any more', async () => {
  const notes = ['gone.app', 'gone.app.attempt', 'here.app', 'young.app'].map((name) =>
    join(settings.stateDir, 'pod-starts', name),
  );
  notes.forEach((path) => writeFileSync(path, ''));
  const past = Date.now() / 1000 - 100_000;
  notes.slice(0, 3).forEach((path) => utimesSync(path, past, past));
  const containerd = { listContainers: () => Promise.resolve([{ labels: { 'io.kubernetes.pod.uid': 'here' } }]) };

  expect(await forgetEndedPods({ settings, containerd } as unknown as NodeDeps)).toBe(2);

  expect(notes.map((path) => existsSync(path))).toEqual([false, false, true, true]);
});
