/*
 * What `kybernate doctor` looks at: the steps of set-up without installing, features of the kernel, the services that
 * a node uses, and what dead operations left. Every row says what to do when it is not right.
 */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { messageOf } from '../../core/errors.ts';
import { CRIU_EVENTS, type HookSettings } from '../../core/hooks.ts';
import { planHooks, refusedHooks } from '../../engine/hooks.ts';
import { strangeHooks } from '../../engine/preflight/hooks.ts';
import { hookSettings } from '../../workers/config.ts';
import { sidecarSockets } from '../../workers/sidecar-sockets.ts';
import { canConnect, hostAndPort, row, type Diagnosis, type DoctorInput, type Examine } from './diagnosis.ts';
import { criPlugin } from './doctor-cri.ts';
import { containerdObjects, diskSpace, leftOperations, leftTraces, pendingUploads, savedLogs } from './doctor-left.ts';
import { temporalServer } from './doctor-temporal.ts';
import { ACCOUNT_STEP } from './account.ts';
import { findKeeper, KEEPER_STEP } from './keeper.ts';
import { findProgram, inDirs } from './programs.ts';
import { setupSteps } from './steps.ts';

const OPERATIONS = ['checkpoint', 'restore'] as const;
const KINDS = ['container', 'process'] as const;
const REFUSED = {
  fail: 'it refuses every operation in which it would run',
  warn: 'every operation in which it would run tells of it',
} as const;

async function installation(input: DoctorInput): Promise<Diagnosis[]> {
  const steps = setupSteps(['run']);
  return Promise.all(
    steps.map(async (step) => {
      const check = await step.check(input.env);
      const version = check.version === undefined ? '' : `${check.version}, `;
      const detail = check.ok ? `${version}${check.detail}` : `${check.detail}; needed: ${step.why}`;
      // Build tools are missed only when something has to be built; without the keeper only a killed CRIU does harm;
      // without the account only a sidecar that root starts under its default name is missing.
      const bad = ['go', 'gcc', 'make', 'npm', 'node', KEEPER_STEP.name, ACCOUNT_STEP.name].includes(step.name)
        ? 'warn'
        : 'fail';
      return row(step.name, check.ok, detail, step.remedy, bad);
    }),
  );
}

function kernelFeatures(): Diagnosis[] {
  const filesystems = readFileSync('/proc/filesystems', 'utf8');
  const v1 = existsSync('/sys/fs/cgroup/freezer');
  const v2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  const version = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  return [
    row('overlayfs', /\toverlay$/m.test(filesystems), `kernel ${version}`, 'modprobe overlay'),
    row(
      'freezer cgroup',
      v1 || v2,
      v1 ? 'version 1, /sys/fs/cgroup/freezer' : 'version 2',
      'mount the cgroup hierarchy at /sys/fs/cgroup; in a container give it the host cgroup namespace',
    ),
  ];
}

/** Made by set-up, or not: what counts is whether node workers are told of it. */
function keeperUse({ env }: DoctorInput): Diagnosis[] {
  const given = env['KYBERNATE_KEEPER_DIR'] || undefined;
  const detail =
    given === undefined
      ? 'KYBERNATE_KEEPER_DIR is not set here: open TCP connections may break when a CRIU is killed'
      : `KYBERNATE_KEEPER_DIR is ${given}`;
  const remedy = `start node workers with KYBERNATE_KEEPER_DIR=${findKeeper(env) ?? '(see kybernate setup)'}`;
  return [row('keeper of CRIU', inDirs('criu', [given ?? '']).length > 0, detail, remedy, 'warn')];
}

/** As a node worker started here would find them. */
function hookScripts({ env }: DoctorInput): Diagnosis[] {
  let settings: HookSettings;
  try {
    settings = hookSettings(env);
  } catch (error) {
    return [row('hooks', false, messageOf(error), 'correct the variable')];
  }
  const { dir } = settings;
  const plans = OPERATIONS.flatMap((operation) =>
    KINDS.map((kind) => planHooks(settings, { operation, kind })).filter((plan) => plan !== undefined),
  );
  const refused = new Map(plans.flatMap((plan) => refusedHooks(plan)).map((refusal) => [refusal.path, refusal]));
  const wrong = [
    ...[...refused.values()].map(({ event, policy, path, why }) =>
      row(`hook ${path}`, false, `refused at ${event}: ${why}`, 'until then ' + REFUSED[policy], policy),
    ),
    ...strangeHooks(settings).map((what) => row('hooks', false, what, 'move it, or take it away', 'warn')),
  ];
  const events = CRIU_EVENTS.filter((name) => plans.some((plan) => plan.events[name] !== undefined));
  const detail = events.length === 0 ? `none in ${dir}` : `in ${dir}: ${events.join(', ')}`;
  return wrong.length > 0 ? wrong : [{ name: 'hooks', state: 'ok', detail }];
}

async function criuCheck({ env, run }: DoctorInput): Promise<Diagnosis[]> {
  const criu = env['KYBERNATE_CRIU'] || findProgram('criu', env);
  if (criu === undefined) {
    return [];
  }
  const result = await run(criu, ['check'], { timeoutMs: 30_000 });
  const last = `${result.stdout}${result.stderr}${result.startError ?? ''}`.trim().split('\n').at(-1) ?? '';
  const nft = await run(criu, ['check', '--feature', 'network_lock_nftables'], { timeoutMs: 30_000 });
  const remedy = 'read `criu check -v4`: the kernel lacks a feature, or root lacks a capability';
  return [
    row('criu check', result.exitCode === 0, last, remedy),
    row(
      'network lock',
      nft.exitCode === 0,
      'nftables',
      'modprobe nf_tables: open TCP connections cannot be dumped without it',
    ),
  ];
}

async function services(input: DoctorInput): Promise<Diagnosis[]> {
  const containerd = await canConnect({ path: input.containerdAddress });
  const temporal = await canConnect(hostAndPort(input.temporalAddress));
  const agent = join(input.runDir, 'agent.sock');
  const worker = await canConnect({ path: agent });
  const transfers = sidecarSockets(input.runDir).http;
  const sidecar = await canConnect({ path: transfers });
  const up = 'or `kybernate up` for a private one';
  return [
    row(
      'containerd',
      containerd === undefined,
      containerd ?? input.containerdAddress,
      `start containerd, or set KYBERNATE_CONTAINERD_ADDRESS, ${up}`,
    ),
    row(
      'Temporal',
      temporal === undefined,
      temporal ?? input.temporalAddress,
      `start a Temporal server, or set TEMPORAL_ADDRESS, ${up}`,
    ),
    row(
      'node worker',
      worker === undefined,
      worker === undefined ? `its agent answers on ${agent}` : worker,
      'start `kybernate worker node`; without it this node takes no work and nothing tidies up after a crash',
      'warn',
    ),
    row(
      'sidecar',
      sidecar === undefined,
      sidecar === undefined ? `it answers on ${transfers}` : sidecar,
      'start `kybernate sidecar`; without it checkpoints of this node reach no store, and none comes from there',
      'warn',
    ),
  ];
}

function stateDirectory({ stateDir }: DoctorInput): Diagnosis[] {
  if (!existsSync(stateDir)) {
    return [{ name: 'state directory', state: 'ok', detail: `${stateDir} is made by the first checkpoint` }];
  }
  try {
    accessSync(stateDir, constants.W_OK);
    return [
      row('state directory', statSync(stateDir).isDirectory(), stateDir, 'set KYBERNATE_STATE_DIR to a directory'),
    ];
  } catch (error) {
    return [row('state directory', false, messageOf(error), 'run as root, or set KYBERNATE_STATE_DIR')];
  }
}

const EXAMINATIONS: readonly Examine[] = [
  installation,
  kernelFeatures,
  criuCheck,
  keeperUse,
  hookScripts,
  services,
  criPlugin,
  temporalServer,
  stateDirectory,
  diskSpace,
  leftOperations,
  leftTraces,
  containerdObjects,
  savedLogs,
  pendingUploads,
];

/** Looks at everything; changes nothing. A check that fails itself is a row that fails. */
export async function diagnose(input: DoctorInput): Promise<Diagnosis[]> {
  const rows: Diagnosis[] = [];
  for (const examine of EXAMINATIONS) {
    try {
      rows.push(...(await examine(input)));
    } catch (error) {
      rows.push(row(examine.name, false, messageOf(error), 'this check itself failed: please report it'));
    }
  }
  return rows;
}
