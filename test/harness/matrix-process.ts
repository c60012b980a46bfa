/* The platform `process` of the support matrix: processes of the host that no container holds, by `kybernate process`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { descendantPids, readProcess } from '../../native/proc/tree.ts';
import type { Kind } from './matrix-data.ts';
import { type Platform, WORKLOADS_DIR } from './matrix.ts';
import { Processes } from './processes.ts';
import { type Stack, until } from './stack.ts';

const CLI = fileURLToPath(new URL('../../cli/kybernate', import.meta.url));

export class OnProcess implements Platform {
  readonly stateDir: string;
  readonly #stack: Stack;
  readonly #processes: Processes;
  /** with the terminal of a job in it */
  #terminal: ChildProcess | undefined;
  #pid = 0;
  #checkpointId = '';

  /** @param number of the cell, for a directory of its own */
  constructor(stack: Stack, number: number) {
    this.#stack = stack;
    this.stateDir = join(stack.dir, `process-${number}`);
    this.#processes = new Processes(stack.dir);
  }

  pid(): Promise<number> {
    return Promise.resolve(readProcess(this.#pid) === undefined ? 0 : this.#pid);
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    const [program = '', ...args] = command.map((word) => word.replace(/^\/w\//, `${WORKLOADS_DIR}/`));
    if (kind === 'tty') {
      // A job of a shell on a terminal that others hold: what a user has in front of him.
      this.#terminal = onTerminal(`sh -c '${[program, ...args].join(' ')}; true'`);
      await until('the job', () => this.#findJob(program) > 0);
      this.#pid = this.#findJob(program);
      this.#processes.adopt(this.#pid);
      return;
    }
    this.#pid = await this.#processes.spawn(kind === 'redis' ? this.#redisServer() : program, args);
  }

  /** Debian's package of that name would start a service: one program under two names. */
  #redisServer(): string {
    const program = this.#processes.fileOf('redis-server');
    if (!existsSync(program)) {
      symlinkSync('/usr/bin/redis-check-rdb', program);
    }
    return program;
  }

  #findJob(program: string): number {
    const pids = descendantPids(this.#terminal?.pid ?? 0);
    return pids.find((pid) => readProcess(pid)?.command.startsWith(program) === true) ?? 0;
  }

  async checkpoint(): Promise<void> {
    const { client, node } = this.#stack;
    const handle = await client.checkpoint({ node, process: { pid: this.#pid }, durability: 'local', after: 'stop' });
    this.#checkpointId = (await handle.result()).checkpointId;
    this.#terminal?.kill();
    await until('its pid to be free', () => readProcess(this.#pid) === undefined);
  }

  async restore(kind: Kind): Promise<void> {
    const { client, node, variables } = this.#stack;
    if (kind === 'tty') {
      this.#terminal = onTerminal(`${CLI} process restore ${this.#checkpointId} --attach`, variables);
      await until('the job on its new terminal', () => readProcess(this.#pid) !== undefined, 30_000);
      return;
    }
    const handle = await client.restoreProcess({ node, checkpointId: this.#checkpointId });
    const { pid } = await handle.result();
    this.#processes.adopt(pid);
  }

  async remove(): Promise<void> {
    await this.#processes.endAll();
    this.#terminal?.kill();
  }
}

/** Runs a command line on a terminal of its own. */
function onTerminal(command: string, env: Readonly<Record<string, string>> = {}): ChildProcess {
  return spawn('script', ['-qfc', command, '/dev/null'], { stdio: 'ignore', env: { ...process.env, ...env } });
}
