/* A private Podman: storage, images and containers in a directory of the test, removed with it. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';

/** runc cannot raise limits on a machine whose root lacks CAP_SYS_RESOURCE. */
const LIMITS = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1000:1000'];

export class Podman {
  readonly dir: string;
  readonly #env: Record<string, string>;
  readonly #globals: readonly string[];

  /** @param dir of the test; short, since Podman makes sockets below it */
  constructor(dir: string) {
    this.dir = dir;
    const [storage, run] = [join(dir, 'storage'), join(dir, 'run')];
    mkdirSync(dir, { recursive: true });
    // By its name, which archives carry: Podman restores with no other.
    writeFileSync(
      join(dir, 'containers.conf'),
      `[engine]\nruntime = "runc"\n[engine.runtimes]\nrunc = ["${requireProgram('runc', process.env)}"]\n`,
    );
    writeFileSync(
      join(dir, 'storage.conf'),
      `[storage]\ndriver = "overlay"\ngraphroot = "${storage}"\nrunroot = "${run}"\n`,
    );
    const criu = requireProgram('criu', process.env);
    this.#env = {
      PATH: `${join(criu, '..')}:${process.env['PATH'] ?? ''}`,
      HOME: dir,
      CONTAINERS_CONF: join(dir, 'containers.conf'),
      CONTAINERS_STORAGE_CONF: join(dir, 'storage.conf'),
    };
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
    ];
  }

  /** @returns standard output @throws Error with what it printed */
  async run(...args: string[]): Promise<string> {
    const podman = requireProgram('podman', process.env);
    const result = await runExeca(podman, [...this.#globals, ...args], { env: this.#env, timeoutMs: 60_000 });
    if (result.exitCode !== 0) {
      throw new Error(`podman ${args.join(' ')}: ${result.startError ?? result.stderr.trim()}`);
    }
    return result.stdout.trim();
  }

  start(name: string, image: string, command: readonly string[], flags: readonly string[] = []): Promise<string> {
    return this.run('run', '-d', '--name', name, '--network', 'none', ...LIMITS, ...flags, image, ...command);
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
