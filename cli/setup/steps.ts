/* The steps of set-up, in their order: what only a person can provide, Debian packages, then one program after the other. */
import { rmSync } from 'node:fs';
import { basename, dirname } from 'node:path';

import { ACCOUNT_STEP } from './account.ts';
import { aptStep, DEBIAN_PACKAGES } from './apt.ts';
import { type DebianBundle, unpackDebian } from './debian.ts';
import { goInstall, type GoModule } from './go-install.ts';
import { KEEPER_STEP } from './keeper.ts';
import { KUBERNETES_STEP } from './kubernetes.ts';
import { runLong } from './long-command.ts';
import { PODMAN_STEP } from './podman.ts';
import { prerequisiteSteps, toolPath } from './prerequisites.ts';
import {
  askVersion,
  describeProgram,
  type Env,
  packageDir,
  type ProgramName,
  PROGRAMS,
  type ProgramSpec,
} from './programs.ts';
import { type Check, type Purpose, type Step, stepsFor } from './step.ts';

interface GoStep {
  readonly name: string;
  readonly why: string;
  readonly neededFor: readonly Purpose[];
  readonly programs: readonly [ProgramName, ...ProgramName[]];
  readonly module: GoModule;
}

const GO_STEPS: readonly GoStep[] = [
  {
    name: 'runc',
    why: 'starts, checkpoints and restores the processes of containers',
    neededFor: ['run', 'demo', 'test'],
    programs: ['runc'],
    module: { packages: ['github.com/opencontainers/runc'], tags: 'seccomp' },
  },
  {
    name: 'containerd',
    why: 'private containerd of `kybernate up`, of the demo and of the tests',
    neededFor: ['demo', 'test'],
    programs: ['containerd', 'containerd-shim-runc-v2', 'ctr'],
    module: {
      packages: ['containerd', 'containerd-shim-runc-v2', 'ctr'].map(
        (name) => `github.com/containerd/containerd/v2/cmd/${name}`,
      ),
    },
  },
  {
    name: 'CNI plug-ins',
    why: 'container networks of the tests',
    neededFor: ['test'],
    programs: ['bridge', 'loopback', 'host-local', 'portmap'],
    module: {
      packages: ['main/bridge', 'main/loopback', 'ipam/host-local', 'meta/portmap'].map(
        (path) => `github.com/containernetworking/plugins/plugins/${path}`,
      ),
    },
  },
  {
    name: 'versitygw',
    why: 'private S3 server over a directory',
    neededFor: ['s3', 'test'],
    programs: ['versitygw'],
    module: { packages: ['github.com/versity/versitygw/cmd/versitygw'] },
  },
  {
    name: 'checkpointctl',
    why: 'reads exported archives in the tests',
    neededFor: ['test'],
    programs: ['checkpointctl'],
    module: { packages: ['github.com/checkpoint-restore/checkpointctl'] },
  },
  {
    name: 'temporal',
    why: 'Temporal server with its Web UI, and its CLI',
    neededFor: ['demo', 'test'],
    programs: ['temporal'],
    module: { packages: ['github.com/temporalio/cli/cmd/temporal'] },
  },
  {
    name: 'helm',
    why: 'installs the chart in the tests on a real cluster',
    neededFor: ['kubernetes'],
    programs: ['helm'],
    module: { packages: ['helm.sh/helm/v4/cmd/helm'] },
  },
];

/** All programs of a step are there; the version and the place are those of the first. */
function checkPrograms(names: readonly [ProgramName, ...ProgramName[]], env: Env): Check {
  const missing = names.filter((name) => describeProgram(name, env) === undefined);
  const first = describeProgram(names[0], env);
  if (first === undefined || missing.length > 0) {
    const { minimum }: ProgramSpec = PROGRAMS[names[0]];
    const enough = minimum === undefined ? '' : ` (${minimum} or newer is enough)`;
    return { ok: false, detail: `${missing.join(', ')} not there${enough}` };
  }
  const version = first.version === undefined ? {} : { version: first.version };
  return { ok: true, ...version, detail: dirname(first.path) };
}

function goStep(step: GoStep): Step {
  return {
    ...step,
    remedy: `kybernate setup, or put ${step.programs.join(', ')} on PATH`,
    check: async (env) => checkPrograms(step.programs, env),
    install: (installation) => goInstall(PROGRAMS[step.programs[0]], step.module, installation),
  };
}

interface DebianStep {
  readonly name: string;
  readonly why: string;
  readonly programs: readonly [ProgramName, ...ProgramName[]];
  readonly packages: DebianBundle;
}

const DEBIAN_STEPS: readonly DebianStep[] = [
  {
    name: 'Docker',
    why: 'private Docker daemons of the tests, with the containerd and runc that belong to it',
    programs: ['dockerd', 'docker'],
    packages: {
      'docker.io': '20.10.24',
      containerd: '1.6.20',
      runc: '1.1.5',
      tini: '0.19.0',
      'libdevmapper1.02.1': '2:1.02.185',
    },
  },
  {
    name: 'registry',
    why: 'private image registry (CNCF distribution) of the tests',
    programs: ['docker-registry'],
    packages: { 'docker-registry': '2.8.2' },
  },
];

function debianStep(step: DebianStep): Step {
  return {
    ...step,
    neededFor: ['test'],
    remedy: 'kybernate setup --for test; see its log',
    check: async (env) => checkPrograms(step.programs, env),
    install: (installation) => unpackDebian(PROGRAMS[step.programs[0]], step.packages, installation),
  };
}

const CRIU_STEP: Step = {
  name: 'criu',
  why: 'dumps and restores process memory; Debian has an older one',
  neededFor: ['run', 'demo', 'test'],
  remedy: 'kybernate setup, or put criu 4.2 or newer on PATH',
  check: async (env) => {
    const check = checkPrograms(['criu'], env);
    const path = describeProgram('criu', env)?.path;
    // Built against this machine's libraries: an upgrade may have taken one away.
    if (path !== undefined && askVersion(path, PROGRAMS.criu.versionArgs) === undefined) {
      return { ok: false, detail: `${path} does not start; it is built again` };
    }
    return check;
  },
  install: async ({ env, logFile, progress }) => {
    const prefix = packageDir(PROGRAMS.criu, env);
    rmSync(prefix, { recursive: true, force: true });
    await runLong(['/bin/bash', toolPath('install-criu.sh'), prefix], {
      env,
      logFile,
      onLine: (line) => progress(line.replace(`${basename('install-criu.sh', '.sh')}: `, '').slice(0, 70)),
    });
  },
};

/**
 * Every step for these purposes.
 * @param purposes decide which Debian packages are looked at, too
 */
export function setupSteps(purposes: readonly Purpose[]): Step[] {
  const all = [
    ...prerequisiteSteps(),
    aptStep(DEBIAN_PACKAGES, purposes),
    CRIU_STEP,
    KEEPER_STEP,
    ACCOUNT_STEP,
    PODMAN_STEP,
    ...GO_STEPS.map(goStep),
    ...DEBIAN_STEPS.map(debianStep),
    KUBERNETES_STEP,
  ];
  return stepsFor(all, purposes);
}
