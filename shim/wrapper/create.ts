/*
 * `runc create` of a container that asks for a restore: ask the agent, fit the specification, unpack the rw layer into
 * the mounted root, `runc restore`, tell the agent. The container's bundle is as its creator left it unless the restore
 * succeeds: whatever fails before the processes run is undone here, and then the stated policy decides.
 */
import { chmodSync, chownSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { FS_FILES, METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import { ANNOTATIONS, restoreWish } from '../../core/oci/annotations.ts';
import { sourcesToCheck } from '../../core/oci/gpu-fit.ts';
import { isOwnLayer } from '../../core/oci/foreign-spec.ts';
import { restorePlan } from '../../core/oci/restore-plan.ts';
import { parseRuncCreate } from '../../core/oci/runc-argv.ts';
import { type OciSpec, isBind, parseSpec } from '../../core/oci/spec.ts';
import { holderOfRoot } from '../../engine/docker/layer.ts';
import { readWish } from '../../engine/restore-wishes.ts';
import { hasStarted, noteOutcome, noteStart, startNote } from '../../engine/pod-starts.ts';
import { RESTORED_MARK } from '../../engine/restored-mark.ts';
import { applyRootfs } from '../../engine/rootfs-apply.ts';
import { fillShared, takeBack } from '../../engine/volume-fill.ts';
import { deleteTable } from '../../native/net/nft.ts';
import { endTimeWait } from '../../native/net/time-wait.ts';
import { exists, replaceFile } from './files.ts';
import { readHostname, writeHostname } from './hostname.ts';
import { type FilledDirectory, type Job, type WrapperDeps, nameOf, timed } from './job.ts';
import { logOutcome } from './log.ts';
import { AS_ANY_OTHER, isTooEarlyForCold, prepare } from './prepare.ts';
import { rememberRootfs, revertRootfs, unrevertable } from './pristine-rootfs.ts';
import { complete, report } from './report.ts';
import { removeRemains, runRestore } from './run-restore.ts';

/** What is left to do: nothing, the real `runc create`, or to fail with this line. */
export type Outcome =
  | { readonly kind: 'restored' }
  | { readonly kind: 'pass-through' }
  | { readonly kind: 'failed'; readonly message: string };

/** @param argv arguments of runc, a `create` */
export async function createOrRestore(deps: WrapperDeps, argv: readonly string[]): Promise<Outcome> {
  const create = parseRuncCreate(argv);
  const bundle = resolve(create.bundle ?? '.');
  const configFile = join(bundle, 'config.json');
  const original = readFileSync(configFile, 'utf8');
  const spec = parseSpec(original, configFile);
  const wish = readWish(deps.runDir, create.id) ?? restoreWish(spec);
  const holder = holderOfRoot(resolve(bundle, spec.root?.path ?? 'rootfs'));
  if (holder !== undefined && holder !== wish?.operationId) {
    const message =
      `kybernate: restore ${holder} of container ${create.id} is not over, and its files are neither those of before nor ` +
      'those of the checkpoint: the node worker ends that restore, then it can be started';
    return { kind: 'failed', message };
  }
  if (wish === undefined || hasStarted(deps.runDir, wish)) {
    return { kind: 'pass-through' };
  }
  const job: Job = {
    create,
    bundle,
    configFile,
    original,
    spec,
    wish,
    begun: performance.now(),
    specReplaced: false,
    runcStarted: false,
    parts: {},
    spans: [],
    warnings: [],
    filled: [],
  };
  try {
    await restore(deps, job);
    tellHow(deps, job, { how: 'restored' });
    logOutcome(deps.runDir, job, 'restored');
    return { kind: 'restored' };
  } catch (error) {
    return afterFailure(deps, job, error);
  }
}

async function restore(deps: WrapperDeps, job: Job): Promise<void> {
  const { create, bundle } = job;
  if (create.pidfdSocket !== undefined) {
    throw new KybernateError('Incompatible', 'the caller wants a pidfd of the init process; a restore cannot send one');
  }
  const prepared = await timed(job, 'prepare', () => prepare(deps, job));
  job.prepared = prepared;
  const { checkpointDir, hasMetadata, imageDir, workDir, tcp } = prepared;
  const captured = hasMetadata ? readCaptured(checkpointDir) : undefined;
  const hookSources = (captured?.metadata.hookMounts ?? []).map(({ source }) => source);
  const plan = restorePlan({
    newSpec: job.spec,
    ...(captured === undefined ? {} : { capturedSpec: captured.spec, metadata: captured.metadata }),
    create,
    bundle,
    imageDir,
    workDir,
    tcp,
    presentSources: new Set(
      captured === undefined
        ? []
        : sourcesToCheck([captured.spec, job.spec], hookSources, prepared.gpu).filter(
            (source) => isOwnLayer(source) || exists(source),
          ),
    ),
    ...(prepared.gpu === undefined ? {} : { gpu: prepared.gpu }),
  });
  for (const warning of plan.warnings) {
    deps.log(create, 'warning', `kybernate: ${warning}`);
  }
  if (captured !== undefined) {
    await timed(job, 'rootfs', () => applyFiles(deps, job, prepared, plan.spec));
  }
  const wanted = plan.hostname;
  if (wanted !== undefined && 'keep' in wanted) {
    job.hostname = { namespacePath: wanted.keep, name: await readHostname(deps.run, wanted.keep) };
  }
  job.specReplaced = true;
  replaceFile(job.configFile, JSON.stringify(plan.spec));
  if (plan.sharedNetwork !== undefined) {
    await endTimeWait(deps.run, plan.sharedNetwork.path, plan.sharedNetwork.ports);
  }
  const initHostPid = await timed(job, 'runc', () => runRestore(deps, job, prepared, plan));
  if (job.hostname !== undefined) {
    await writeHostname(deps.run, job.hostname.namespacePath, job.hostname.name);
  } else if (wanted !== undefined && 'set' in wanted) {
    await writeHostname(deps.run, `/proc/${initHostPid}/ns/uts`, wanted.set);
  }
  if (plan.networkHoldTable !== undefined) {
    await deleteTable(deps.run, initHostPid, { family: 'inet', name: plan.networkHoldTable });
  }
  await complete(
    deps,
    job,
    initHostPid,
    prepared.gpu !== undefined || (captured?.metadata.gpuProcesses.length ?? 0) > 0,
  );
  const { wish } = job;
  // `start` notes there that the container has had its first start: one that is never started has not.
  const note = wish.everyStart === true ? undefined : startNote(deps.runDir, wish.pod);
  const lines = [prepared.operationId, ...(note === undefined ? [] : [note])];
  writeFileSync(join(create.root, create.id, RESTORED_MARK), `${lines.join('\n')}\n`, { mode: 0o600 });
}

/** The rw layer through the mounted root; then what lies outside of it. */
async function applyFiles(
  deps: WrapperDeps,
  job: Job,
  { checkpointDir, volumes }: PrepareRestoreResponse,
  spec: OciSpec,
): Promise<void> {
  const has = (name: string): boolean => exists(join(checkpointDir, name));
  if (has(FS_FILES.rootfsDiff) || has(FS_FILES.deletedFiles) || has(FS_FILES.linkRemap)) {
    const rootfs = resolve(job.bundle, job.spec.root?.path ?? 'rootfs');
    job.pristine = rememberRootfs(rootfs);
    await applyRootfs(rootfs, checkpointDir, deps.run);
  }
  const shm = job.wish.pod === undefined && has(FS_FILES.devShm) ? shmBesidePods(job, spec) : [];
  for (const { file, dir } of [...(volumes ?? []), ...shm]) {
    await fill(deps, job, dir, join(checkpointDir, file));
  }
}

/** Whoever has made the container there is root, and says where its /dev/shm comes from. One of its own is filled by runc's. */
function shmBesidePods(job: Job, spec: OciSpec): NonNullable<PrepareRestoreResponse['volumes']> {
  const source = (spec.mounts ?? []).find((mount) => mount.destination === '/dev/shm' && isBind(mount))?.source;
  return source === undefined ? [] : [{ file: FS_FILES.devShm, dir: resolve(job.bundle, source) }];
}

/** A directory outside of the container: one that was empty can be emptied again. */
async function fill(deps: WrapperDeps, job: Job, dir: string, tar: string): Promise<void> {
  if (readdirSync(dir).length === 0) {
    const { mode, uid, gid } = statSync(dir);
    job.filled.push({ dir, tar, mode: mode & 0o7777, uid, gid });
  } else {
    job.pristine = unrevertable(dir);
  }
  await fillShared(deps.run, { dir, scratch: scratchOf(job) }, tar);
}

/** Goes with the bundle, should we be killed. */
function scratchOf({ bundle }: Job): string {
  return join(bundle, 'kybernate-volume');
}

/** They outlive the container: the next attempt is to find them as this one did. */
async function emptyAgain(deps: WrapperDeps, job: Job, { dir, tar, mode, uid, gid }: FilledDirectory): Promise<void> {
  await takeBack(deps.run, { dir, scratch: scratchOf(job) }, tar);
  chownSync(dir, uid, gid);
  chmodSync(dir, mode);
}

async function afterFailure(deps: WrapperDeps, job: Job, error: unknown): Promise<Outcome> {
  const { create, wish } = job;
  const policy = job.prepared?.onFailure ?? wish.onFailure;
  const errors = [messageOf(error)];
  if (wish.pod !== undefined && isKybernateError(error) && isNoneToRestore(error)) {
    return { kind: 'pass-through' };
  }
  job.refusedByHook = isKybernateError(error, 'HookFailed');
  if (job.runcStarted) {
    await removeRemains(deps, job);
    if (job.hostname !== undefined) {
      await writeHostname(deps.run, job.hostname.namespacePath, job.hostname.name).catch((nameError: unknown) =>
        errors.push(messageOf(nameError)),
      );
    }
  }
  if (job.specReplaced) {
    replaceFile(job.configFile, job.original);
  }
  const mayStartCold = policy === 'cold-start' && !deps.signal.aborted && !isTooEarlyForCold(job, error);
  let cold = mayStartCold && job.again !== true;
  for (const directory of job.filled) {
    try {
      await emptyAgain(deps, job, directory);
    } catch (emptyError) {
      cold = false;
      errors.push(messageOf(emptyError));
    }
  }
  // For the try after this one, too: the cold start that may follow it needs the root as it was.
  if (mayStartCold && job.pristine !== undefined) {
    try {
      await revertRootfs(job.pristine, deps.run);
    } catch (revertError) {
      cold = false;
      errors.push(`no cold start either, the files of the checkpoint cannot be taken back: ${messageOf(revertError)}`);
    }
  }
  if (cold) {
    try {
      noteStart(deps.runDir, wish);
    } catch (noteError) {
      cold = false;
      errors.push(messageOf(noteError));
    }
  }
  try {
    await report(deps, job, cold ? 'cold-started' : 'failed', 0, errors);
  } catch (reportError) {
    errors.push(`and the agent was not told: ${messageOf(reportError)}`);
  }
  const kind = wish.pod !== undefined && isKybernateError(error) ? `${error.type}: ` : '';
  const message = `kybernate: ${nameOf(job)} was not restored from ${wish.restoreFrom}: ${kind}${errors.join('; ')}`;
  logOutcome(deps.runDir, job, cold ? 'cold-started' : 'failed', errors.join('; ').slice(0, 4096));
  if (!cold) {
    return { kind: 'failed', message };
  }
  deps.log(create, 'warning', `${message}; it is started afresh, as ${ANNOTATIONS.onFailure} asks`);
  tellHow(deps, job, { how: 'cold-started', reason: errors.join('; ').slice(0, 2000) });
  return { kind: 'pass-through' };
}

/** A variable of this name may mean something else to others, and nothing to this node. */
function isNoneToRestore({ details }: KybernateError): boolean {
  return details['switchedOff'] === true || details[AS_ANY_OTHER] === true;
}

/** For whoever asks the node later, the operator above all. */
function tellHow(deps: WrapperDeps, { create, wish }: Job, outcome: Parameters<typeof noteOutcome>[2]): void {
  const failed = noteOutcome(deps.runDir, wish, outcome);
  if (failed !== undefined) {
    deps.log(create, 'warning', `kybernate: how it started could not be noted: ${failed}`);
  }
}

function readCaptured(checkpointDir: string): { spec: OciSpec; metadata: Metadata } {
  const specFile = join(checkpointDir, OWN_FILES.spec);
  const metadataFile = join(checkpointDir, METADATA_FILE);
  return {
    spec: parseSpec(readFileSync(specFile, 'utf8'), specFile),
    // The agent has checked it against its schema, and its bytes against the manifest.
    metadata: parseSpec(readFileSync(metadataFile, 'utf8'), metadataFile) as Metadata,
  };
}
