/* Processes of the host for a test: each in a session of its own, ended and cleaned with the test. */
import { spawn, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { descendantPids, readProcess } from '../../native/proc/tree.ts';
import { until } from './stack.ts';

const SCRIPT = fileURLToPath(new URL('../workloads/process.py', import.meta.url));

export interface ProcessState {
  readonly token: string;
  readonly count: number;
  readonly pid: number;
}

export class Processes {
  readonly #dir: string;
  readonly #pids = new Set<number>();

  /** @param dir of the test, removed by it */
  constructor(dir: string) {
    this.#dir = dir;
  }

  fileOf(name: string): string {
    return join(this.#dir, name);
  }

  /**
   * Returns when it counts.
   * @param options through: command line that becomes the one behind it, `unshare --net --` for example
   * @returns its pid
   */
  async start(
    kind: string,
    options: { name?: string; argument?: string; stdio?: StdioOptions; cwd?: string; through?: string[] } = {},
  ): Promise<number> {
    const { name = kind, argument = '', stdio = 'ignore', cwd = '/', through = [] } = options;
    rmSync(this.fileOf(name), { force: true });
    const [program, ...args] = [...through, 'python3', SCRIPT, kind, this.fileOf(name), argument] as const;
    const pid = await this.spawn(program, args, stdio, cwd);
    await until(`${name} to count`, () => (this.read(name)?.count ?? 0) > 1);
    return pid;
  }

  /** In a session of a shell, with something behind its command: `| cat`. */
  async startJob(kind: string, rest: string): Promise<void> {
    const command = `python3 ${SCRIPT} ${kind} ${this.fileOf(kind)} ${rest}`;
    await this.spawn('sh', ['-c', `${command}; true`]);
    await until(`${kind} to count`, () => (this.read(kind)?.count ?? 0) > 1);
  }

  async spawn(program: string, args: readonly string[], stdio: StdioOptions = 'ignore', cwd = '/'): Promise<number> {
    // detached: setsid, so that its session is its own
    const child = spawn(program, args, { stdio, detached: true, cwd });
    await once(child, 'spawn');
    child.unref();
    this.#pids.add(child.pid ?? 0);
    return child.pid ?? 0;
  }

  /** A restored one is ended with the test, too. */
  adopt(pid: number): void {
    this.#pids.add(pid);
  }

  read(name: string): ProcessState | undefined {
    try {
      return JSON.parse(readFileSync(this.fileOf(name), 'utf8')) as ProcessState;
    } catch {
      // Not written yet.
      return undefined;
    }
  }

  async countsOn(name: string): Promise<ProcessState> {
    const before = this.read(name)?.count ?? 0;
    await until(`${name} to count on`, () => (this.read(name)?.count ?? 0) > before + 3);
    return this.read(name) ?? { token: '', count: 0, pid: 0 };
  }

  /** Ends a tree and waits until its pids are free. */
  async end(pid: number): Promise<void> {
    const pids = descendantPids(pid);
    for (const one of pids) {
      try {
        process.kill(one, 'SIGKILL');
      } catch {
        // ESRCH: it has ended.
      }
    }
    await until('its pids to be free', () => pids.every((one) => readProcess(one) === undefined));
  }

  async endAll(): Promise<void> {
    for (const pid of this.#pids) {
      await this.end(pid);
    }
    this.#pids.clear();
  }
}
