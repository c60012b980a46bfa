/*
 * A restore through the Docker daemon, so that Docker knows the container: it makes and starts it, with our runtime, whose
 * wrapper finds the wish beside the container (restore-wishes.ts) and restores instead. `docker start --checkpoint` is not
 * used: it copies the images twice, passes CRIU no options, and knows neither GPU nor files.
 *
 * The steps are those of restore.ts and may be repeated in the same way; start.ts has the last one. The container's name stands for its id, which
 * Docker chooses: `context.container.id` is the name, `record.docker.id` the id, once there is one.
 */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import type {
  CreateColdInput,
  CreateContainerInput,
  PlanRestoreInput,
  PlanRestoreResult,
} from '../../core/contract/restore.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { type Finding, problem, warningTexts } from '../../core/preflight.ts';
import type { Docker } from '../../native/docker/docker.ts';
import { hostNetwork } from '../../native/proc/network-here.ts';
import { type Captured, readCaptured } from '../captured.ts';
import { planGpu, reservationOf } from '../gpu/restore-steps.ts';
import type { GpuRestorePlan } from '../gpu/restore-target.ts';
import type { NodeDeps } from '../node-deps.ts';
import { oneAtATime } from '../one-at-a-time.ts';
import { checkToken } from '../operation.ts';
import { asStep } from '../operation-steps.ts';
import { refuseFor } from '../preflight/refuse.ts';
import { surveyForeignRestore, type RestoreSurveyInput } from '../preflight/restore.ts';
import { claimRestore, endEarlierRuns, gpuNow, registerRestore, type OperationRun } from '../restore.ts';
import { readRestore, requireRestore, writeRestore, type RestoreRecord } from '../restore-operation.ts';
import { bareImageDir } from '../restore-source.ts';
import { writeWish } from '../restore-wishes.ts';
import { createBody, type CreateBody } from './create-body.ts';
import { holderOf, holdLayer, setLayerAside } from './layer.ts';
import { surveyDocker, upperDirOf, type DockerTarget } from './preflight.ts';
import { requireDocker } from './source.ts';

export interface DockerRestoreSurvey {
  readonly findings: readonly Finding[];
  readonly target?: DockerTarget;
  readonly gpu?: GpuRestorePlan;
}

/** Touches nothing. @throws RuntimeUnavailable no Docker daemon answers */
export async function surveyDockerRestore(
  deps: NodeDeps,
  { metadata, spec }: Captured,
  input: RestoreSurveyInput,
): Promise<DockerRestoreSurvey> {
  const { operationId, tcp, missingBytes } = input;
  const gpu = await planGpu(deps, metadata, { operationId, map: input.gpuMap, avoid: input.avoidGpus ?? [] });
  const disk = await statfs(deps.settings.stateDir);
  const freeBytes = disk.bavail * disk.bsize;
  const { findings, target } = await surveyDocker(requireDocker(deps), metadata, spec, {
    name: input.context.container.id,
    operationId,
    tcp,
    host: hostNetwork(),
    exists: existsSync,
    holderOf,
  });
  return {
    findings: [
      ...(await surveyForeignRestore(deps, metadata, tcp)),
      ...gpu.findings,
      ...findings,
      ...(freeBytes < missingBytes
        ? [problem('disk', `${deps.settings.stateDir} has ${freeBytes} bytes free, the copy needs ${missingBytes}`)]
        : []),
    ],
    ...(target === undefined ? {} : { target }),
    ...(gpu.plan === undefined ? {} : { gpu: gpu.plan }),
  };
}

/** As `planRestore`. @throws Incompatible with every reason, LockLost, RuntimeUnavailable no Docker daemon answers */
export async function planDockerRestore(
  deps: NodeDeps,
  op: Op,
  input: PlanRestoreInput & OperationRun & { readonly checkpointDir: string },
): Promise<PlanRestoreResult> {
  const { context, checkpointDir } = input;
  const { checkpointId } = context;
  await claimRestore(deps, op, input);
  const survey = await surveyDockerRestore(deps, readCaptured(checkpointDir), { ...input, missingBytes: 0 });
  op.signal.throwIfAborted();
  refuseFor(survey.findings, checkpointId ?? checkpointDir, deps);
  return { warnings: warningTexts(survey.findings), ...(survey.gpu === undefined ? {} : { gpuMap: survey.gpu.map }) };
}

/**
 * Makes the container, or sets the files of the source aside, and leaves the wish for the wrapper. The record comes first.
 * @throws Incompatible something was taken since the plan, LockLost, Internal with Docker's own words
 */
export async function createDockerRestored(
  deps: NodeDeps,
  op: Op,
  input: CreateContainerInput & OperationRun,
): Promise<void> {
  return asStep(input.operationId, async () => {
    const { context, operationId, localPath } = input;
    const captured = readCaptured(localPath);
    const record = await makeOnce(deps, op, captured, { ...input, checkpointDir: localPath, isCold: false });
    const { id = '', upperDir } = record.docker ?? {};
    checkToken(deps.settings, context.container, context.token);
    if (upperDir !== undefined) {
      await setLayerAside(upperDir, operationId);
    }
    writeWish(deps.settings.runDir, id, {
      restoreFrom: context.checkpointId ?? captured.metadata.checkpointId,
      origin: 'annotation',
      operationId,
      // As the agent answers (`prepareRestore`), should it not be there.
      onFailure: upperDir === undefined ? record.onFailure : 'fail',
      tcp: record.tcp,
      unverified: false,
    });
  });
}

/** Without a wish Docker starts it as any other; the source keeps its files. @throws as `createDockerRestored` */
export async function createDockerCold(
  deps: NodeDeps,
  op: Op,
  input: Omit<CreateColdInput, 'from'> & OperationRun & { readonly captured: Captured },
): Promise<void> {
  return asStep(input.operationId, async () => {
    await endEarlierRuns(deps, op, input);
    const afresh = { checkpointDir: '', gpuMap: [], tcp: 'close', onFailure: 'cold-start', isCold: true } as const;
    await makeOnce(deps, op, input.captured, { ...input, ...afresh });
  });
}

interface Making
  extends OperationRun, Pick<CreateContainerInput, 'context' | 'stdio' | 'gpuMap' | 'avoidGpus' | 'tcp'> {
  readonly checkpointDir: string;
  readonly onFailure: 'fail' | 'cold-start';
  readonly isCold: boolean;
}

/** @returns the record, with the id of the container */
async function makeOnce(deps: NodeDeps, op: Op, captured: Captured, making: Making): Promise<RestoreRecord> {
  const { context, operationId } = making;
  checkToken(deps.settings, context.container, context.token);
  const docker = requireDocker(deps);
  const known = readRestore(deps.settings, operationId);
  if (known?.docker?.id !== undefined && (await docker.container(known.docker.id)) !== undefined) {
    return known;
  }
  const { metadata } = captured;
  const checkpointId = context.checkpointId ?? metadata.checkpointId;
  const { target, findings } = await surveyDockerRestore(deps, captured, { ...making, missingBytes: 0 });
  refuseFor(findings, making.isCold ? `${checkpointId} started afresh` : checkpointId, deps);
  const facts = metadata.container.docker;
  if (target === undefined || facts === undefined) {
    throw new KybernateError('Internal', `Docker has no place for ${checkpointId}, and nobody says why`);
  }
  const name = context.container.id;
  const same = target.kind === 'same' ? { id: target.id, ...(making.isCold ? {} : { upperDir: target.upperDir }) } : {};
  await oneAtATime(() => register(deps, making, captured, { name, ...same }));
  const record = requireRestore(deps.settings, operationId);
  if (target.kind === 'same') {
    return record;
  }
  const wish = { operationId, checkpointId, sourceId: metadata.container.id, image: target.image };
  const id = await createInDocker(docker, name, createBody(facts, wish));
  op.log.info({ operationId, checkpointId, container: name, dockerId: id }, 'container of Docker made');
  const layer = making.isCold ? undefined : upperDirOf(await docker.container(id));
  // Not there where Docker's files are hidden from this process: then nothing guards it from its own restart policy.
  if (layer === undefined || !existsSync(layer)) {
    return writeRestore(deps.settings, { ...record, docker: { name, id } });
  }
  holdLayer(layer, operationId);
  return writeRestore(deps.settings, { ...record, docker: { name, id, madeUpperDir: layer } });
}

/** Idempotent: a container of that name is the operation's own, or the survey had refused. */
async function createInDocker(docker: Docker, name: string, { body, connect }: CreateBody): Promise<string> {
  const existing = await docker.container(name);
  const id = existing?.Id ?? (await docker.createContainer(name, body));
  const joined = existing?.NetworkSettings.Networks ?? {};
  for (const { network, endpoint } of connect.filter((other) => joined[other.network] === undefined)) {
    await docker.connectNetwork(network, id, endpoint);
  }
  return id;
}

async function register(
  deps: NodeDeps,
  making: Making,
  { metadata }: Captured,
  docker: NonNullable<RestoreRecord['docker']>,
): Promise<void> {
  const { checkpointDir, tcp, onFailure, isCold } = making;
  const gpu = isCold ? undefined : await gpuNow(deps, metadata, making.operationId, making);
  registerRestore(deps, making, {
    checkpointDir,
    imageDir: isCold ? '' : bareImageDir(checkpointDir),
    hasMetadata: !isCold,
    snapshotter: '',
    tcp,
    onFailure,
    terminal: metadata.stdio.terminal,
    attempt: 0,
    // Docker's own start is one try.
    triedAgain: true,
    docker,
    ...(isCold ? { cold: true } : {}),
    ...reservationOf(gpu),
  });
}
