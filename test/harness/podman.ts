/* A private Podman: storage, images and containers in a directory of the test, removed with it. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageDir, PROGRAMS, type ProgramSpec, requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';

/** runc cannot raise limits on a machine whose root lacks CAP_SYS_RESOURCE. */
const LIMITS = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1000:1000'];

/** Of the next major version than Debian 12's, built by `npm run matrix` from its Go module. */
export const NEWER_PODMAN = { ...PROGRAMS.podman, package: 'podman', version: '5.8.2' } as const satisfies ProgramSpec;

export function newerPodman(): string {
  return join(packageDir(NEWER_PODMAN, process.env), NEWER_PODMAN.subdir, 'podman');
}

export interface PodmanOptions {
  /** default: what set-up has found */
  readonly program?: string;
  /** path for `--runtime`; default: runc by its name, which archives carry: Podman restores with no other */
  readonly runtime?: string;
}

export class Podman {
  readonly dir: string;
  readonly #program: string;
  readonly #env: Record<string, string>;
  readonly #globals: readonly string[];

  /** @param dir of the test; short, since Podman makes sockets below it */
  constructor(dir: string, options: PodmanOptions = {}) {
    this.dir = dir;
    this.#program = options.program ?? requireProgram('podman', process.env);
    const [storage, run] = [join(dir, 'storage'), join(dir, 'run')];
    this.#env = { ...this.#configure(storage, run), ...debianParts() };
    this.#globals = [
      '--root',
      storage,
      '--runroot',
      run,
      '--tmpdir',
      join(dir, 'tmp'),
      '--storage-driver',
      'overlay',
      '--cgroup-manager',
      'cgroupfs',
      '--events-backend',
      'none',
      ...(options.runtime === undefined ? [] : ['--runtime', options.runtime]),
    ];
  }

  #configure(storage: string, run: string): Record<string, string> {
    const config = join(this.dir, 'containers.conf');
    const helpers = join(this.dir, 'helpers');
    mkdirSync(helpers, { recursive: true });
    // Podman 5 does not start without a program of that name; networks are not what is tested.
    writeFileSync(join(helpers, 'netavark'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const conmon = join(packageDir(PROGRAMS.podman, process.env), 'root/usr/bin/conmon');
    const engine = [
      'runtime = "runc"',
      `helper_binaries_dir = ["${helpers}"]`,
      ...(existsSync(conmon) ? [`conmon_path = ["${conmon}"]`] : []),
    ];
    const network = `[network]\nnetwork_config_dir = "${join(this.dir, 'networks')}"\n`;
    const runtimes = `[engine.runtimes]\nrunc = ["${requireProgram('runc', process.env)}"]\n`;
    writeFileSync(config, `${network}[engine]\n${engine.join('\n')}\n${runtimes}`);
    writeFileSync(
      join(this.dir, 'storage.conf'),
      `[storage]\ndriver = "overlay"\ngraphroot = "${storage}"\nrunroot = "${run}"\n`,
    );
    writeFileSync(join(this.dir, 'registries.conf'), '');
    const policy = join(this.dir, '.config/containers');
    mkdirSync(policy, { recursive: true });
    writeFileSync(join(policy, 'policy.json'), '{"default":[{"type":"insecureAcceptAnything"}]}\n');
    return {
      PATH: `${dirname(requireProgram('criu', process.env))}:${process.env['PATH'] ?? ''}`,
      HOME: this.dir,
      CONTAINERS_CONF: config,
      CONTAINERS_STORAGE_CONF: join(this.dir, 'storage.conf'),
      CONTAINERS_REGISTRIES_CONF: join(this.dir, 'registries.conf'),
      PODMAN_IGNORE_CGROUPSV1_WARNING: '1',
    };
  }

  /** @returns standard output @throws Error with what it printed */
  async run(...args: string[]): Promise<string> {
    const result = await runExeca(this.#program, [...this.#globals, ...args], { env: this.#env, timeoutMs: 60_000 });
    if (result.exitCode !== 0) {
      throw new Error(`podman ${args.join(' ')}: ${result.startError ?? result.stderr.trim()}`);
    }
    return result.stdout.trim();
  }

  start(name: string, image: string, command: readonly string[], flags: readonly string[] = []): Promise<string> {
    return this.run('run', '-d', '--name', name, '--network', 'none', ...LIMITS, ...flags, image, ...command);
  }

  /** Of the first process; 0 while there is none. */
  async pid(name: string): Promise<number> {
    return Number(await this.run('inspect', '--format', '{{.State.Pid}}', name).catch(() => '0'));
  }

  /** Also what a failed test left. */
  async close(): Promise<void> {
    await this.run('rm', '--force', '--all', '--time', '0');
    await this.run('volume', 'rm', '--all', '--force');
    // Its storage is a mount of itself.
    await runExeca('umount', ['--lazy', join(this.dir, 'storage/overlay')], { timeoutMs: 10_000 });
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** conmon's libraries, where set-up has unpacked them. */
function debianParts(): Record<string, string> {
  const machine = process.arch === 'x64' ? 'x86_64-linux-gnu' : 'aarch64-linux-gnu';
  const libraries = join(packageDir(PROGRAMS.podman, process.env), 'root/usr/lib', machine);
  return existsSync(libraries) ? { LD_LIBRARY_PATH: libraries } : {};
}
