/* Looks at one copy of a checkpoint and tells everything that is wrong with it, where `verify` ends at the first. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest, type PublishedManifest } from '../core/checkpoint/manifest.ts';
import { MAX_PROBLEMS, type PlaceReport, type Problem, type VerifyMode } from '../core/contract/verify.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { getManifest, type RemoteCheckpoint } from './catalog.ts';
import { errnoOf } from './files.ts';
import { fileListObject, publicationDigest } from './file-list.ts';
import { indexKey, manifestKey, packKey, PREFIX } from './keys.ts';
import { acquireLease, newReadLeaseId } from './lease.ts';
import { forEachLimit } from './limit.ts';
import { parseMetadata } from './metadata.ts';
import type { OnDamage } from './read-plan.ts';
import { checkDirectory, checkStored, damage, reporting } from './verify.ts';
import { noteReadback } from './verified.ts';

const PARALLEL_HEADS = 16;

export interface StoreSurvey {
  readonly report: PlaceReport;
  /** every pack with a damage, also behind the limit of the report */
  readonly damagedPacks: ReadonlySet<string>;
  /** absent where the manifest is missing or cannot be used */
  readonly published?: PublishedManifest;
}

/**
 * Looks at a checkpoint in a store, and notes there what it has shown: damage always, that all of it was read and is
 * whole only with `accept`.
 * @throws StorageUnavailable, StorageDenied; what `accept` throws; never for damage
 */
export async function surveyStore(request: {
  readonly checkpointId: string;
  readonly backend: Backend;
  readonly mode: VerifyMode;
  readonly op: Op;
  /** looks at what is published before more of it is read: by one whose word `verified` may rest on */
  readonly accept?: (remote: RemoteCheckpoint) => Promise<void>;
}): Promise<StoreSurvey> {
  const { checkpointId, backend, mode, op, accept } = request;
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const findings = new Findings('store', backend.url);
    const remote = await readPublished(backend, checkpointId, { op, findings });
    if (remote === undefined) {
      return { report: findings.report(), damagedPacks: findings.packs };
    }
    const published = remote.manifest;
    findings.merkleRoot = published.merkleRoot;
    await reporting(findings.add, { kind: 'damaged', object: manifestKey(checkpointId) }, async () => accept?.(remote));
    await checkPresence(backend, published, { op, onDamage: findings.add });
    if (mode === 'full') {
      await reporting(findings.add, { kind: 'damaged' }, async () => {
        const { files, bytes } = await checkStored(backend, published, { op, onDamage: findings.add });
        findings.files = files;
        findings.bytes = bytes;
      });
    }
    const report = findings.report();
    if (!report.ok || (mode === 'full' && accept !== undefined)) {
      await noteReadback(backend, { checkpointId, digest: publicationDigest(published), whole: report.ok }, op);
    }
    return { report, damagedPacks: findings.packs, published };
  } finally {
    await lease.release();
  }
}

async function readPublished(
  backend: Backend,
  checkpointId: string,
  { op, findings }: { readonly op: Op; readonly findings: Findings },
): Promise<RemoteCheckpoint | undefined> {
  const object = manifestKey(checkpointId);
  try {
    return await getManifest(backend, checkpointId, op.signal);
  } catch (error) {
    if (isKybernateError(error, 'CheckpointCorrupt')) {
      findings.add(damage('damaged', error.message, { object }));
      return undefined;
    }
    if (!isKybernateError(error, 'CheckpointNotFound')) {
      throw error;
    }
  }
  // A deleted checkpoint leaves nothing here; a file list without its manifest was left by a loss, or a deletion or a
  // publication that was cut off.
  for await (const { key } of backend.list(`${PREFIX.checkpoints}${checkpointId}/`, { signal: op.signal })) {
    findings.add(damage('missing', `${backend.url}/${object} is missing, although ${key} is there`, { object }));
    return undefined;
  }
  findings.found = false;
  return undefined;
}

/** Presence and sizes of what the manifest names. */
async function checkPresence(
  backend: Backend,
  published: PublishedManifest,
  { op, onDamage }: { readonly op: Op; readonly onDamage: OnDamage },
): Promise<void> {
  const { packs } = published;
  const list = fileListObject(published);
  const expected: Array<{ object: string; bytes?: number; pack?: string }> = [
    { object: list.key, bytes: list.bytes },
    ...packs.flatMap(([pack, bytes]) => [
      { object: packKey(pack), bytes, pack },
      { object: indexKey(pack), pack },
    ]),
  ];
  await forEachLimit(expected, PARALLEL_HEADS, op.signal, async ({ bytes, ...where }) => {
    const there = await backend.head(where.object, { signal: op.signal });
    const name = `${backend.url}/${where.object}`;
    if (there === undefined) {
      onDamage(damage('missing', `${name} is missing`, where));
    } else if (bytes !== undefined && there.bytes !== bytes) {
      onDamage(damage('size', `${name} has ${there.bytes} bytes instead of ${bytes}`, where));
    }
    op.progress({ phase: 'verifying' });
  });
}

/** Looks at a checkpoint directory. One without metadata.json is no checkpoint, and not found. Never throws for damage. */
export async function surveyDirectory(request: {
  readonly dir: string;
  /** what it must be; absent: any */
  readonly checkpointId?: string;
  readonly mode: VerifyMode;
  readonly op: Op;
}): Promise<PlaceReport> {
  const { dir, checkpointId, mode, op } = request;
  const findings = new Findings('node', dir);
  if (!(await isThere(join(dir, METADATA_FILE)))) {
    findings.found = false;
    return findings.report();
  }
  await reporting(findings.add, { kind: 'damaged', file: METADATA_FILE }, async () => {
    const metadata = parseMetadata(await readFile(join(dir, METADATA_FILE), 'utf8'), join(dir, METADATA_FILE));
    findings.merkleRoot = metadata.merkleRoot;
    if (checkpointId !== undefined && metadata.checkpointId !== checkpointId) {
      throw new KybernateError('CheckpointCorrupt', `${dir} holds the checkpoint ${metadata.checkpointId}`);
    }
  });
  await reporting(findings.add, { kind: 'damaged', file: OWN_FILES.manifest }, async () => {
    const path = join(dir, OWN_FILES.manifest);
    if (!(await isThere(path))) {
      findings.add(damage('missing', `${path} is missing`, { file: OWN_FILES.manifest }));
      return;
    }
    const manifest = parseManifest(await readFile(path, 'utf8'), path);
    findings.files = manifest.files.length;
    findings.bytes = await checkDirectory(dir, manifest, mode, { op, onDamage: findings.add });
  });
  return findings.report();
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) {
      return false;
    }
    throw error;
  }
}

/** What was found in one place. */
class Findings {
  readonly packs = new Set<string>();
  found = true;
  files = 0;
  bytes = 0;
  merkleRoot: string | undefined;
  readonly #place: PlaceReport['place'];
  readonly #where: string;
  readonly #problems: Problem[] = [];
  readonly #objects = new Set<string>();
  #count = 0;

  constructor(place: PlaceReport['place'], where: string) {
    this.#place = place;
    this.#where = where;
  }

  readonly add: OnDamage = ({ message, details }) => {
    const problem = { ...pick(details), message };
    const { file, object, pack } = problem;
    if (pack !== undefined) {
      this.packs.add(pack);
    }
    if (object !== undefined && file === undefined) {
      // A missing object is met again by every later check of it.
      if (this.#objects.has(object)) {
        return;
      }
      this.#objects.add(object);
    }
    this.#count += 1;
    if (this.#problems.length < MAX_PROBLEMS) {
      this.#problems.push(problem);
    }
  };

  report(): PlaceReport {
    const { found, files, bytes, merkleRoot } = this;
    return {
      place: this.#place,
      where: this.#where,
      found,
      ok: found && this.#count === 0,
      ...(merkleRoot === undefined ? {} : { merkleRoot }),
      files,
      bytes,
      problems: this.#problems,
      problemCount: this.#count,
    };
  }
}

/** The fields of a problem, out of the details of a damage. */
function pick(details: Readonly<Record<string, unknown>>): Omit<Problem, 'message'> {
  const { kind, file, chunk, pack, object } = details as Partial<Problem>;
  return {
    kind: kind ?? 'damaged',
    ...(file === undefined ? {} : { file }),
    ...(chunk === undefined ? {} : { chunk }),
    ...(pack === undefined ? {} : { pack }),
    ...(object === undefined ? {} : { object }),
  };
}
