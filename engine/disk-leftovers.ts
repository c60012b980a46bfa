/*
 * What dead operations have left below the state directory: half-made checkpoints and drafts that a reboot found before
 * their commit, copies that a fetch had not finished (`.fetch-<operation>`), captures moved aside to be removed
 * (`.discard-*`), imports whose process ended. Whoever still claims one of them has a directory of its operation, or a
 * lease; what nobody claims is removed. A capture that is whole, of this boot, waits for its commit: it is only told.
 */
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { METADATA_FILE } from '../core/checkpoint/file-names.ts';
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { removeUncommitted } from './commit.ts';
import { draftPath } from './draft.ts';
import { pruneFailedLogs } from './failed-logs.ts';
import type { NodeSettings } from './node-deps.ts';
import { bootId, listOperations, readJson, readPlan } from './operation.ts';
import { readOwner } from './operation-owner.ts';
import { listLeases, pruneLogs, releaseLease } from './restore-operation.ts';

export interface DiskLeftover {
  readonly path: string;
  readonly kind: 'half-made checkpoint' | 'draft' | 'unfinished fetch' | 'discarded capture' | 'unfinished import';
  /** a capture of this boot without its operation: its commit would still make it a checkpoint */
  readonly whole: boolean;
}

type Settings = Pick<NodeSettings, 'stateDir' | 'runDir'>;

const CHECKPOINT = /^checkpoint-(.+)$/;
const DRAFT = /^checkpoint-.+\.draft\.json$/;

/** Everything that no operation of this node claims. Changes nothing; a process that is just beginning may be missed. */
export async function diskLeftovers(settings: Settings): Promise<readonly DiskLeftover[]> {
  const dir = join(settings.stateDir, 'checkpoints');
  const claims = await claimed(settings);
  const names = existsSync(dir) ? readdirSync(dir).sort() : [];
  return names.flatMap((name) => {
    const kind = kindOf(dir, name, claims);
    const path = join(dir, name);
    return kind === undefined ? [] : [{ path, kind, whole: kind === 'half-made checkpoint' && isWhole(path) }];
  });
}

interface Claims {
  /** directories of captures that have a plan, and of checkpoints that somebody fetches */
  readonly dirs: ReadonlySet<string>;
  readonly operations: ReadonlySet<string>;
}

async function claimed(settings: Settings): Promise<Claims> {
  const operations = new Set(await listOperations(settings));
  const dirs = new Set<string>();
  const claim = (checkpointId: string | undefined): unknown =>
    checkpointId === undefined ? undefined : dirs.add(`checkpoint-${checkpointId}`);
  for (const operationId of operations) {
    const planned = readPlan(settings, operationId)?.checkpointDir;
    if (planned !== undefined) {
      dirs.add(basename(planned));
    }
    claim(readOwner(settings, operationId)?.checkpointId);
  }
  listLeases(settings)
    .filter(({ operationId }) => operations.has(operationId))
    .forEach(({ checkpointId }) => claim(checkpointId));
  return { dirs, operations };
}

function kindOf(dir: string, name: string, claims: Claims): DiskLeftover['kind'] | undefined {
  const fetch = /^\.fetch-([0-9a-f]+)$/.exec(name)?.[1];
  if (fetch !== undefined) {
    return claims.operations.has(fetch) ? undefined : 'unfinished fetch';
  }
  const importer = /^\.import-(\d+)-/.exec(name)?.[1];
  if (importer !== undefined) {
    return existsSync(`/proc/${importer}`) ? undefined : 'unfinished import';
  }
  const discarded = /^\.discard-(checkpoint-.+)$/.exec(name)?.[1];
  if (discarded !== undefined) {
    return claims.dirs.has(discarded) ? undefined : 'discarded capture';
  }
  if (DRAFT.test(name)) {
    const owner = name.replace(/\.draft\.json$/, '');
    const isLeft = !claims.dirs.has(owner) && !isHalfMade(dir, owner);
    return isLeft ? 'draft' : undefined;
  }
  return CHECKPOINT.test(name) && !claims.dirs.has(name) && isHalfMade(dir, name) ? 'half-made checkpoint' : undefined;
}

function isHalfMade(dir: string, name: string): boolean {
  return existsSync(join(dir, name)) && !existsSync(join(dir, name, METADATA_FILE));
}

/** Its draft is written when its files are, though not synced: after a reboot nothing is known of them. */
function isWhole(checkpointDir: string): boolean {
  try {
    const draft = readJson(draftPath(checkpointDir)) as { readonly bootId?: string } | undefined;
    return draft?.bootId === bootId();
  } catch {
    // A draft that is not JSON was cut short, so its capture is not whole either.
    return false;
  }
}

/**
 * Removes what nobody claims and keeps the logs of failures within their limits. Idempotent.
 * @returns paths that were removed
 * Crash: the rest is found by the next call.
 */
export async function sweepDisk(settings: Settings, op: Op): Promise<readonly string[]> {
  const removed: string[] = [];
  for (const operation of await staleLeases(settings)) {
    releaseLease(settings, operation.checkpointId, operation.operationId);
  }
  for (const leftover of await diskLeftovers(settings)) {
    try {
      if (!leftover.whole && (await removeLeftover(settings, leftover))) {
        removed.push(leftover.path);
      }
    } catch (error) {
      op.log.error({ path: leftover.path, error: messageOf(error) }, 'a left-over could not be removed');
    }
  }
  await pruneFailedLogs(settings);
  pruneLogs(join(settings.stateDir, 'logs'));
  return removed;
}

/** An operation's directory is made before its lease and removed before it. */
async function staleLeases(settings: Settings): Promise<ReturnType<typeof listLeases>> {
  const leases = listLeases(settings);
  const operations = new Set(await listOperations(settings));
  return leases.filter(({ operationId }) => !operations.has(operationId));
}

/** One of them. @returns false when it is none any more, or could be removed in part only */
export async function removeLeftover(settings: Settings, { path, kind }: DiskLeftover): Promise<boolean> {
  // Looked at once more, and moved before anybody else runs: an operation may have begun since.
  if (kindOf(dirname(path), basename(path), await claimed(settings)) !== kind) {
    return false;
  }
  if (kind === 'half-made checkpoint') {
    const aside = join(dirname(path), `.discard-${basename(path)}`);
    if (!existsSync(aside)) {
      renameSync(path, aside);
    }
    return removeUncommitted(path);
  }
  if (kind === 'discarded capture') {
    await removeUncommitted(join(dirname(path), basename(path).replace('.discard-', '')));
    return !existsSync(path);
  }
  await rm(path, { recursive: true, force: true });
  return true;
}
