/*
 * Workloads on platforms and runtimes. In `make test` a few cells, which must come out as recorded; `npm run matrix` runs
 * all of them and records what came out.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { spawn, type ChildProcess } from 'node:child_process';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shimDirOf } from '../../cli/dev/shim.ts';
import { packageDir, type ProgramName, PROGRAMS, requireProgram } from '../../cli/setup/programs.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { DOCKER_IMAGES, DockerDaemon } from '../harness/docker.ts';
import {
  ALL_KINDS,
  type Kind,
  readRows,
  recordRow,
  RESTORING_CONTAINERD,
  RUNC_VERSIONS,
} from '../harness/matrix-data.ts';
import { FromKubelet, type Kubelet, startKubelet, ToKubelet } from '../harness/matrix-kubelet.ts';
import { OnProcess } from '../harness/matrix-process.ts';
import { type Platform, runCell, WORKLOADS_DIR } from '../harness/matrix.ts';
import { FromPodman, InPodman, type Source, ToPodman } from '../harness/matrix-podman.ts';
import { NEWER_PODMAN, newerPodman, Podman } from '../harness/podman.ts';
import { fromLane } from '../harness/provided.ts';
import { PYTHON, REDIS, Stack } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';

/** `all`, or parts of `platform/runtime` by commas: these are run whole and recorded. */
const WANTED = process.env['KYBERNATE_MATRIX'];
const isWhole = WANTED !== undefined;

function isWanted(platform: string, runtime: string): boolean {
  return (
    WANTED === 'all' || (WANTED ?? '').split(',').some((part) => part !== '' && `${platform}/${runtime}`.includes(part))
  );
}

/** With KYBERNATE_MATRIX_MISSING=1 those that are not recorded: a run that was cut off goes on. */
function wantedKinds(platform: string, runtime: string): Kind[] {
  const row = readRows().find((known) => known.platform === platform && known.runtime === runtime);
  return ALL_KINDS.filter((kind) => process.env['KYBERNATE_MATRIX_MISSING'] !== '1' || row?.cells[kind] === undefined);
}

let stack: Stack;
let docker: DockerDaemon;
let containerd: Containerd;
let serial = 0;
const podmans = new Map<string, Podman>();

beforeAll(async () => {
  docker = await DockerDaemon.start('dm');
  await docker.importImages('python', ...(isWhole ? (['redis'] as const) : []));
  stack = await Stack.open({ env: docker.variables });
  containerd = connectContainerd(fromLane('containerd').address);
});
afterAll(async () => {
  for (const podman of podmans.values()) {
    await podman.close();
  }
  containerd?.close();
  await stack?.close();
  await docker?.close();
});

class OnContainerd implements Source {
  readonly stateDir: string;
  readonly #flags: readonly string[];
  checkpointId = '';
  #id = '';
  #source = '';
  #terminal: ChildProcess | undefined;

  constructor(flags: readonly string[], stateDir = '/state') {
    this.stateDir = stateDir;
    this.#flags = flags;
  }

  async pid(): Promise<number> {
    return (await containerd.getTask(stack.namespace, this.#id))?.pid ?? 0;
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    serial += 1;
    this.#id = `m${serial}`;
    const image = kind === 'redis' ? REDIS : PYTHON;
    const flags = [...this.#flags, ...workload()];
    if (kind !== 'tty') {
      await stack.runContainer(this.#id, image, command, flags);
      return;
    }
    // `ctr run -t` wants a terminal of its own: `script` gives it one.
    const { address, path } = fromLane('containerd');
    const words = ['ctr', '-a', address, '-n', stack.namespace, 'run', '-t', ...flags, image, this.#id, ...command];
    const env = { PATH: path, TERM: 'xterm', CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' };
    this.#terminal = spawn('script', ['-qfc', words.join(' '), '/dev/null'], { env, stdio: 'ignore' });
  }

  async checkpoint(): Promise<void> {
    this.checkpointId = (await stack.checkpoint(this.#id, { after: 'stop' })).checkpointId;
  }

  /** The source has ended; its record keeps the layer that ctr has made for its user namespace. */
  async restore(): Promise<void> {
    this.#source = this.#id;
    this.#id = `${this.#id}r`;
    await stack.restore(this.checkpointId, this.#id);
  }

  async remove(): Promise<void> {
    await stack.removeContainer(this.#id);
    // One that was refused has run on.
    if (this.#source !== '') {
      await stack.removeContainer(this.#source);
    }
    this.#terminal?.kill();
  }
}

class OnDocker implements Platform {
  readonly #runtime: string;
  #name = '';
  #checkpointId = '';

  constructor(runtime: string) {
    this.#runtime = runtime;
  }

  async pid(): Promise<number> {
    return (await docker.api.container(this.#name))?.State.Pid ?? 0;
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    serial += 1;
    this.#name = `m${serial}`;
    const image = kind === 'redis' ? DOCKER_IMAGES.redis : DOCKER_IMAGES.python;
    const flags = [...(kind === 'tty' ? ['-t'] : []), '--runtime', this.#runtime, '-v', `${WORKLOADS_DIR}:/w:ro`];
    await docker.docker('run', '-d', '-i', '--network', 'none', '--name', this.#name, ...flags, image, ...command);
  }

  async checkpoint(): Promise<void> {
    const handle = await stack.client.checkpoint({
      node: stack.node,
      container: { docker: this.#name },
      durability: 'local',
      after: 'stop',
    });
    this.#checkpointId = (await handle.result()).checkpointId;
  }

  /** In place with our runtime; that of another runtime goes into a new container. */
  async restore(): Promise<void> {
    const name = this.#runtime === 'kybernate' ? this.#name : `${this.#name}r`;
    const checkpointId = this.#checkpointId;
    const handle = await stack.client.restore({ node: stack.node, checkpointId, container: { docker: name } });
    await handle.result();
    this.#name = name;
  }

  async remove(): Promise<void> {
    await docker.removeContainers();
  }
}

interface Subject {
  readonly platform: string;
  readonly runtime: string;
  /** in `make test` */
  readonly short: readonly Kind[];
  readonly make: () => Platform;
}

const version = (name: ProgramName): string => PROGRAMS[name].version;

/** Podman alone with our runtime, and archives in both directions. */
function podmanSubjects(is: string, program: () => string): Subject[] {
  const platform = `Podman ${is}`;
  const subject = (runtime: string, make: Subject['make']): Subject => ({ platform, runtime, short: [], make });
  const podman = (runtime?: string): Podman => {
    const key = `p${is[0]}${runtime === undefined ? 'r' : 'w'}`;
    const options = { program: program(), ...(runtime === undefined ? {} : { runtime }) };
    const opened = podmans.get(key) ?? new Podman(join(stack.dir, key), options);
    podmans.set(key, opened);
    return opened;
  };
  const wrapper = (): string => join(shimDirOf(fromLane('containerd').dir), 'kybernate-runtime/runc');
  return [
    subject(`our wrapper as \`--runtime\` (runc ${version('runc')})`, () => new InPodman(stack, podman(wrapper()))),
    subject('its archive, restored by us', () => new FromPodman(stack, containerd, podman())),
    subject('our archive, restored by it', () => new ToPodman(stack, new OnContainerd([]), podman())),
  ];
}

const DEBIAN_RUNC = '1.1.5';

const SUBJECTS: readonly Subject[] = [
  {
    platform: 'processes of the host',
    runtime: `none (CRIU ${version('criu')})`,
    short: [],
    make: () => new OnProcess(stack, (serial += 1)),
  },
  {
    platform: `containerd ${version('containerd')}`,
    runtime: `runc ${version('runc')}`,
    short: ['tcp'],
    make: () => new OnContainerd([]),
  },
  {
    platform: `containerd ${version('containerd')}`,
    runtime: `runc ${DEBIAN_RUNC}; \`kybernate\` with runc ${version('runc')}`,
    short: [],
    make: () => new OnContainerd(['--runc-binary', debianRunc()]),
  },
  {
    platform: `containerd ${version('containerd')}, in a user namespace`,
    runtime: `runc ${version('runc')}`,
    short: [],
    make: () => new OnContainerd(['--uidmap', '0:100000:65536', '--gidmap', '0:100000:65536']),
  },
  {
    platform: `containerd ${version('containerd')}, as user 1000`,
    runtime: `runc ${version('runc')}`,
    short: [],
    make: () => new OnContainerd(['--user', '1000:1000'], '/dev/shm'),
  },
  {
    platform: `Docker ${version('dockerd')}`,
    runtime: `\`kybernate\` (runc ${version('runc')})`,
    short: ['deleted'],
    make: () => new OnDocker('kybernate'),
  },
  {
    platform: `Docker ${version('dockerd')}`,
    runtime: "Docker's own (runc 1.1.5), restored by `kybernate`",
    short: [],
    make: () => new OnDocker('runc'),
  },
  ...podmanSubjects('4.3.1', () => requireProgram('podman', process.env)),
  ...podmanSubjects(NEWER_PODMAN.version, newerPodman),
];

/** Containers of the stack come back by the runtime whose runc this names; the node worker checkpoints with it, too. */
async function withRunc(path: string, act: () => Promise<void>): Promise<void> {
  const conf = join(shimDirOf(fromLane('containerd').dir), 'kybernate-runtime/kybernate-shim.conf');
  const before = readFileSync(conf, 'utf8');
  const variable = stack.variables['KYBERNATE_RUNC'] ?? '';
  const restart = async (runc: string): Promise<void> => {
    await stack.stopNodeWorker();
    stack.variables['KYBERNATE_RUNC'] = runc;
    await stack.startWorkers();
  };
  writeFileSync(conf, before.replace(/^runc=.*$/m, `runc=${path}`));
  await restart(path);
  try {
    await act();
  } finally {
    writeFileSync(conf, before);
    await restart(variable);
  }
}

/** Of Debian 12, unpacked with its Docker. */
function debianRunc(): string {
  return join(dirname(requireProgram('docker', process.env)), '../sbin/runc');
}

/** Of other versions, each for what starts, checkpoints and restores: Debian's, and those that `npm run matrix` has built. */
function olderRuncs(): Array<readonly [version: string, path: string]> {
  const built = RUNC_VERSIONS.map((is) => [
    is,
    join(packageDir({ ...PROGRAMS.runc, version: is }, process.env), 'bin/runc'),
  ]);
  return [[DEBIAN_RUNC, debianRunc()] as const, ...built.map(([is = '', path = '']) => [is, path] as const)];
}

function kindsOf({ platform, runtime, short }: Subject): readonly Kind[] {
  if (!isWhole) {
    return short;
  }
  return isWanted(platform, runtime) ? wantedKinds(platform, runtime) : [];
}

describe.each(SUBJECTS.filter((subject) => kindsOf(subject).length > 0))('$platform with $runtime', (subject) => {
  const { platform, runtime, make } = subject;
  it.each(kindsOf(subject))('%s passes, or is refused and runs on', async (kind) => {
    const outcome = await runCell(make(), kind);

    if (isWhole) {
      recordRow({ platform, runtime, cells: { [kind]: outcome } });
    } else {
      const recorded = readRows().find((row) => row.platform === platform && row.runtime === runtime)?.cells[kind];
      expect(outcome === 'passed' ? outcome : 'refused').toBe(recorded === 'passed' ? recorded : 'refused');
    }
  });
});

describe.runIf(isWhole)('other versions of runc', () => {
  it.each(isWhole ? olderRuncs() : [])(
    '%s',
    async (is, path) => {
      const platform = `containerd ${version('containerd')}`;
      const runtime = `runc ${is}`;
      if (!isWanted(platform, runtime)) {
        return;
      }
      await withRunc(path, async () => {
        for (const kind of wantedKinds(platform, runtime)) {
          const outcome = await runCell(new OnContainerd(['--runc-binary', path]), kind);
          recordRow({ platform, runtime, cells: { [kind]: outcome } });
        }
      });
    },
    900_000,
  );
});

const KUBELETS = [
  {
    platform: `CRI of containerd ${version('containerd')}`,
    runtime: 'its own checkpoint, restored by `kybernate`',
    restoring: false,
    make: (kubelet: Kubelet, number: number): Platform => new FromKubelet(kubelet, number),
  },
  {
    platform: `CRI of containerd ${RESTORING_CONTAINERD}`,
    runtime: 'checkpoint of `kybernate`, restored by containerd',
    restoring: true,
    make: (kubelet: Kubelet, number: number): Platform => new ToKubelet(kubelet, number),
  },
].filter(({ platform, runtime }) => isWhole && isWanted(platform, runtime));

describe.each(KUBELETS)('$platform: $runtime', ({ platform, runtime, restoring, make }) => {
  let kubelet: Kubelet;

  beforeAll(async () => {
    kubelet = await startKubelet(stack, restoring);
  });
  afterAll(async () => {
    await kubelet?.close();
  });

  it.each(wantedKinds(platform, runtime))('%s', async (kind) => {
    const outcome = runCell(make(kubelet, (serial += 1)), kind);

    if (restoring && kind === 'tcp') {
      await expect(outcome).rejects.toThrow('OCI runtime restore failed');
      const failed = "containerd's restore gives runc no option for TCP connections";
      recordRow({ platform, runtime, cells: { [kind]: { failed } } });
    } else {
      recordRow({ platform, runtime, cells: { [kind]: await outcome } });
    }
  });
});
