/*
 * With transparent huge pages the driver's save takes a third less time. The setting is the machine's: it is changed
 * while at least one operation holds it, and `<runDir>/huge-pages.json` says who does and what it was before. A holder
 * without an operation's directory has ended or died; the last one to go puts the setting back.
 */
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { tryLockExclusive } from '../../native/libc/flock.ts';
import type { NodeSettings } from '../node-deps.ts';
import { bootId, operationPaths, readJson, writeJson, type OperationPlan } from '../operation.ts';

/** Source: Documentation/admin-guide/mm/transhuge.rst. */
const SETTING = '/sys/kernel/mm/transparent_hugepage/enabled';
const WANTED = 'always';
/** Others hold the lock for less than a millisecond. */
const LOCK_MS = 1000;

interface HugePagesRecord {
  /** what is put back */
  readonly before: string;
  readonly holders: readonly string[];
  readonly bootId: string;
}

type Settings = Pick<NodeSettings, 'runDir'>;
type HugePagesPlan = Pick<OperationPlan, 'gpu' | 'operationId'> & { readonly settings: Settings };

/**
 * Idempotent. What cannot be set costs time only, so nothing is thrown.
 * @returns why it could not be set; empty when it is
 * Crash: the record names us before the setting changes; `putBackHugePages` or `releaseHugePages` put it back.
 */
export function setHugePages(plan: HugePagesPlan, file = SETTING): readonly string[] {
  if (!plan.gpu.hugePages || plan.gpu.processes.length === 0) {
    return [];
  }
  return warned('transparent huge pages could not be set, so the save takes longer', () =>
    locked(plan.settings, () => {
      const now = selected(file);
      const record = readRecord(plan.settings);
      if (now === WANTED && record === undefined) {
        return [];
      }
      const holders = new Set([...(record?.holders ?? []), plan.operationId]);
      writeJson(recordFile(plan.settings), { before: record?.before ?? now, holders: [...holders], bootId: bootId() });
      writeFileSync(file, WANTED);
      const read = selected(file);
      return read === WANTED ? [] : [`transparent huge pages are ${read} after ${WANTED} was set`];
    }),
  );
}

/** Idempotent, never throws. @returns what could not be put back */
export function putBackHugePages(
  plan: Pick<OperationPlan, 'operationId'> & { readonly settings: Settings },
  file = SETTING,
): readonly string[] {
  return releaseHugePages(plan.settings, plan.operationId, file);
}

/**
 * Drops one holder, and all whose operations are gone: without a name this is what a worker does at its start.
 * Idempotent, never throws. @returns what could not be put back
 */
export function releaseHugePages(settings: Settings, operationId?: string, file = SETTING): readonly string[] {
  if (!existsSync(recordFile(settings))) {
    return [];
  }
  return warned('transparent huge pages could not be put back', () =>
    locked(settings, () => {
      const record = readRecord(settings);
      const holders = (record?.holders ?? []).filter(
        (holder) => holder !== operationId && existsSync(operationPaths(settings, holder).plan),
      );
      if (record !== undefined && holders.length > 0) {
        writeJson(recordFile(settings), { ...record, holders });
        return [];
      }
      const now = selected(file);
      if (record !== undefined && now === WANTED) {
        writeFileSync(file, record.before);
      }
      const read = selected(file);
      rmSync(recordFile(settings), { force: true });
      return record === undefined || read === record.before
        ? []
        : [`transparent huge pages are ${read}, they were ${record.before} before: somebody else has changed ${file}`];
    }),
  );
}

function recordFile(settings: Settings): string {
  return join(settings.runDir, 'huge-pages.json');
}

/** A reboot has put the setting back by itself. */
function readRecord(settings: Settings): HugePagesRecord | undefined {
  const record = readJson(recordFile(settings)) as HugePagesRecord | undefined;
  return record?.bootId === bootId() ? record : undefined;
}

/** The word in brackets: `always [madvise] never`. */
function selected(file: string): string {
  const text = readFileSync(file, 'utf8');
  return /\[(\w+)\]/.exec(text)?.[1] ?? text.trim();
}

function warned(what: string, act: () => readonly string[]): readonly string[] {
  try {
    return act();
  } catch (error) {
    return [`${what}: ${messageOf(error)}`];
  }
}

function locked<T>(settings: Settings, act: () => T): T {
  const fd = openSync(join(settings.runDir, 'huge-pages.lock'), 'a', 0o600);
  try {
    const until = Date.now() + LOCK_MS;
    while (!tryLockExclusive(fd)) {
      if (Date.now() > until) {
        throw new Error(`another operation holds the setting for longer than ${LOCK_MS} ms`);
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
    return act();
  } finally {
    closeSync(fd);
  }
}
