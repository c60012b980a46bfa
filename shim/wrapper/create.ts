/*
 * `runc create` of a container that asks for a restore: ask the agent, fit the specification, unpack the rw layer into
 * the mounted root, `runc restore`, tell the agent. The container's bundle is as its creator left it unless the restore
 * succeeds: whatever fails before the processes run is undone here, and then the stated policy decides.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { FS_FILES, METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import type { PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import { ANNOTATIONS, type RestoreWish, restoreWish } from '../../core/oci/annotations.ts';
import { type RestorePlan, restorePlan } from '../../core/oci/restore-plan.ts';
import { type RuncCreate, parseRuncCreate } from '../../core/oci/runc-argv.ts';
import { type OciSpec, bindSources, isBind, parseSpec } from '../../core/oci/spec.ts';
import { applyDevShm, applyRootfs } from '../../engine/rootfs-apply.ts';
import type { Run, RunOptions, RunResult } from '../../native/run/run.ts';
import { deleteTable } from '../../native/net/nft.ts';
import { exists, pidIn, replaceFile } from './files.ts';
import { readHostname, writeHostname } from './hostname.ts';
import type { Agent } from './node-socket.ts';
import { type PristineRootfs, rememberRootfs, revertRootfs, unrevertable } from './pristine-rootfs.ts';
import { restoreErrors } from './restore-errors.ts';

export interface WrapperDeps {
  readonly runcPath: string;
  readonly agent: Agent;
  readonly run: Run;
  /** starts a program on our own stdin, stdout and stderr: those of the container */
  readonly runInherited: (file: string, args: readonly string[], options: RunOptions) => Promise<RunResult>;
  readonly env: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  /** one line for the runtime's log; the shim reports the last one of level `error` */
  readonly log: (create: RuncCreate, level: 'error' | 'warning' | 'info', message: string) => void;
}

/** What is left to do: nothing, the real `runc create`, or to fail with this line. */
export type Outcome =
  | { readonly kind: 'restored' }
  | { readonly kind: 'pass-through' }
  | { readonly kind: 'failed'; readonly message: string };

/** In the directory that runc keeps for the container, and removes with it: `start` has nothing to do. */
const MARKER = 'kybernate-restored';
const CRIU_CONFIG = 'criu.conf';

interface Job {
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
  specReplaced: boolean;
  runcStarted: boolean;
  readonly parts: Record<string, number>;
}

/** @param argv arguments of runc, a `create` */
export async function createOrRestore(deps: WrapperDeps, argv: readonly string[]): Promise<Outcome> {
  const create = parseRuncCreate(argv);
  const bundle = resolve(create.bundle ?? '.');
  const configFile = join(bundle, 'config.json');
  const original = readFileSync(configFile, 'utf8');
  const spec = parseSpec(original, configFile);
  const wish = restoreWish(spec);
  if (wish === undefined) {
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
  };
  try {
    await restore(deps, job);
    return { kind: 'restored' };
  } catch (error) {
    return afterFailure(deps, job, error);
  }
}

async function restore(deps: WrapperDeps, job: Job): Promise<void> {
  const { create, wish, bundle, parts } = job;
  if (create.pidfdSocket !== undefined) {
    throw new KybernateError('Incompatible', 'the caller wants a pidfd of the init process; a restore cannot send one');
  }
  const prepared = await timed(parts, 'prepareMs', () =>
    deps.agent.prepareRestore({
      restoreFrom: wish.restoreFrom,
      origin: wish.origin,
      ...(wish.operationId === undefined ? {} : { operationId: wish.operationId }),
      container: containerOf(create),
      bundle,
      tcp: wish.tcp,
      onFailure: wish.onFailure,
      unverified: wish.unverified,
      ...(wish.pod === undefined ? {} : { pod: wish.pod }),
    }),
  );
  job.prepared = prepared;
  const { checkpointDir, hasMetadata, imageDir, workDir, tcp } = prepared;
  const captured = hasMetadata ? readCaptured(checkpointDir) : undefined;
  const plan = restorePlan({
    newSpec: job.spec,
    ...(captured === undefined ? {} : { capturedSpec: captured.spec, metadata: captured.metadata }),
    create,
    bundle,
    imageDir,
    workDir,
    tcp,
    presentSources: new Set(captured === undefined ? [] : bindSources(captured.spec).filter(exists)),
  });
  for (const warning of plan.warnings) {
    deps.log(create, 'warning', `kybernate: ${warning}`);
  }
  if (captured !== undefined) {
    await timed(parts, 'rootfsMs', () => applyFiles(deps, job, checkpointDir, plan.spec));
  }
  const keptName =
    plan.hostname !== undefined && 'keep' in plan.hostname
      ? await readHostname(deps.run, plan.hostname.keep)
      : plan.hostname?.set;
  job.specReplaced = true;
  replaceFile(job.configFile, JSON.stringify(plan.spec));
  const initHostPid = await timed(parts, 'runcMs', () => runRestore(deps, job, prepared, plan));
  if (keptName !== undefined) {
    await writeHostname(deps.run, initHostPid, keptName);
  }
  if (plan.networkHoldTable !== undefined) {
    await deleteTable(deps.run, initHostPid, { family: 'inet', name: plan.networkHoldTable });
  }
  await complete(deps, job, initHostPid, (captured?.metadata.gpuProcesses.length ?? 0) > 0);
  writeFileSync(join(create.root, create.id, MARKER), `${prepared.operationId}\n`, { mode: 0o600 });
}

/** The rw layer through the mounted root, and a /dev/shm that lies outside of it. */
async function applyFiles(deps: WrapperDeps, job: Job, checkpointDir: string, spec: OciSpec): Promise<void> {
  const has = (name: string): boolean => exists(join(checkpointDir, name));
  const shmSource = (spec.mounts ?? []).find((mount) => mount.destination === '/dev/shm' && isBind(mount))?.source;
  if (has(FS_FILES.rootfsDiff) || has(FS_FILES.deletedFiles) || has(FS_FILES.linkRemap)) {
    const rootfs = resolve(job.bundle, job.spec.root?.path ?? 'rootfs');
    job.pristine = rememberRootfs(rootfs);
    await applyRootfs(rootfs, checkpointDir, deps.run);
  }
  if (has(FS_FILES.devShm) && shmSource !== undefined) {
    job.pristine = unrevertable(shmSource);
    await applyDevShm(shmSource, checkpointDir, deps.run);
  }
}

/** @returns host pid of the restored init process */
async function runRestore(
  deps: WrapperDeps,
  job: Job,
  prepared: PrepareRestoreResponse,
  plan: RestorePlan,
): Promise<number> {
  const { create } = job;
  const criuConfig = join(prepared.workDir, CRIU_CONFIG);
  writeFileSync(criuConfig, plan.criuConfigText, { mode: 0o600 });
  job.runcStarted = true;
  // By the environment, not by the annotation org.criu.config: runc would keep that for the container's whole life, and
  // the next dump would read it.
  const result = await deps.runInherited(deps.runcPath, plan.argv, {
    env: { ...deps.env, CRIU_CONFIG_FILE: criuConfig },
    timeoutMs: prepared.restoreBudgetMs,
    signal: deps.signal,
  });
  if (result.exitCode !== 0) {
    const why = result.timedOut
      ? `not done after ${prepared.restoreBudgetMs} ms`
      : (result.startError ?? result.signal ?? `exit code ${result.exitCode}`);
    const errors = await restoreErrors(prepared.workDir, create.log);
    throw new KybernateError('RestoreFailed', `runc restore failed (${why}): ${errors.join(' | ')}`, {
      details: { errors },
    });
  }
  const pid = create.pidFile === undefined ? await pidFromState(deps, create) : pidIn(create.pidFile);
  if (pid === undefined) {
    throw new KybernateError('RestoreFailed', `runc restore left no pid in ${create.pidFile ?? 'its state'}`);
  }
  return pid;
}

async function pidFromState(deps: WrapperDeps, create: RuncCreate): Promise<number | undefined> {
  const state = await deps.run(deps.runcPath, [...create.globals, 'state', create.id]);
  const { pid } = (state.exitCode === 0 ? JSON.parse(state.stdout) : {}) as { pid?: number };
  return pid;
}

/**
 * The agent brings the GPU state back and ends the operation. A workload without one already runs as it should: an agent
 * that went away in the meantime is no reason to kill it.
 */
async function complete(deps: WrapperDeps, job: Job, initHostPid: number, needsGpu: boolean): Promise<void> {
  let proceed = true;
  try {
    ({ proceed } = await timed(job.parts, 'completeMs', () => report(deps, job, 'restored', initHostPid, [])));
  } catch (error) {
    if (needsGpu || !isKybernateError(error, 'NodeUnavailable')) {
      throw error;
    }
    deps.log(job.create, 'warning', `kybernate: ${error.message}; the container runs`);
  }
  if (!proceed) {
    throw new KybernateError('RestoreFailed', 'the agent could not bring the GPU state back');
  }
}

async function report(
  deps: WrapperDeps,
  job: Job,
  outcome: 'restored' | 'cold-started' | 'failed',
  initHostPid: number,
  errors: readonly string[],
): Promise<{ proceed: boolean }> {
  if (job.prepared === undefined) {
    return { proceed: false };
  }
  return deps.agent.completeRestore({
    operationId: job.prepared.operationId,
    container: containerOf(job.create),
    outcome,
    initHostPid,
    restoreMs: performance.now() - job.begun,
    parts: job.parts,
    errors: errors.map((line) => line.slice(0, 1000)).slice(-40),
  });
}

async function afterFailure(deps: WrapperDeps, job: Job, error: unknown): Promise<Outcome> {
  const { create, wish } = job;
  const policy = job.prepared?.onFailure ?? wish.onFailure;
  const why = messageOf(error);
  const errors = [why];
  if (job.runcStarted) {
    // Also removes the cgroup and what CRIU left in it; nothing to delete is no error with --force.
    await deps.run(deps.runcPath, [...create.globals, 'delete', '--force', create.id]);
  }
  if (job.specReplaced) {
    replaceFile(job.configFile, job.original);
  }
  let cold = policy === 'cold-start' && !deps.signal.aborted;
  if (cold && job.pristine !== undefined) {
    try {
      await revertRootfs(job.pristine, deps.run);
    } catch (revertError) {
      cold = false;
      errors.push(`no cold start either, the files of the checkpoint cannot be taken back: ${messageOf(revertError)}`);
    }
  }
  try {
    await report(deps, job, cold ? 'cold-started' : 'failed', 0, errors);
  } catch (reportError) {
    errors.push(`and the agent was not told: ${messageOf(reportError)}`);
  }
  const message = `kybernate: container ${create.id} was not restored from ${wish.restoreFrom}: ${errors.join('; ')}`;
  if (!cold) {
    return { kind: 'failed', message };
  }
  deps.log(create, 'warning', `${message}; it is started afresh, as ${ANNOTATIONS.onFailure} asks`);
  return { kind: 'pass-through' };
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

/** The shim's runc root is `<root>/<containerd namespace>`; for other callers the name says nothing and is harmless. */
function containerOf(create: RuncCreate): { id: string; namespace: string } {
  return { id: create.id, namespace: create.root.replace(/\/+$/, '').split('/').at(-1) ?? '' };
}

async function timed<Result>(parts: Record<string, number>, name: string, act: () => Promise<Result>): Promise<Result> {
  const begun = performance.now();
  try {
    return await act();
  } finally {
    parts[name] = performance.now() - begun;
  }
}
