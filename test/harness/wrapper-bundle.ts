/* A container's bundle and a checkpoint in a temporary directory, with a false agent and a false runc, for the wrapper. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CompleteRestoreCall, PrepareRestoreCall, PrepareRestoreResponse } from '../../core/contract/restore.ts';
import type { RunResult } from '../../native/run/run.ts';
import type { WrapperDeps } from '../../shim/wrapper/job.ts';

export const OK: RunResult = {
  exitCode: 0,
  timedOut: false,
  cancelled: false,
  forceKilled: false,
  durationMs: 1,
  stdout: '',
  stderr: '',
};
export const OPERATION = '0123456789abcdef0123456789abcdef';

export class WrapperBundle {
  readonly dir = mkdtempSync(join(tmpdir(), 'wrapper-'));
  /** of the `create` */
  readonly argv: readonly string[];
  /** what the agent was asked, and told */
  readonly prepared: PrepareRestoreCall[] = [];
  readonly completed: CompleteRestoreCall[] = [];
  /** lines of runc's log */
  readonly logged: string[] = [];
  /** command lines, and what they found */
  readonly ran: string[] = [];
  /** those that the agent names */
  volumes: PrepareRestoreResponse['volumes'];

  constructor() {
    const { dir } = this;
    for (const part of ['bundle/rootfs', 'checkpoint/fs', 'work', 'root/default/id']) {
      mkdirSync(join(dir, part), { recursive: true });
    }
    const globals = ['--root', join(dir, 'root/default'), '--log', join(dir, 'log.json'), '--log-format', 'json'];
    const files = ['--bundle', join(dir, 'bundle'), '--pid-file', join(dir, 'bundle/init.pid')];
    this.argv = [...globals, 'create', ...files, 'id'];
    writeFileSync(join(dir, 'checkpoint/config.json'), '{}');
    writeFileSync(
      join(dir, 'checkpoint/metadata.json'),
      JSON.stringify({ capture: { tcp: 'keep', criuOptions: [] }, stdio: { terminal: false }, gpuProcesses: [] }),
    );
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }

  config(): string {
    return join(this.dir, 'bundle/config.json');
  }

  marker(): string {
    return join(this.dir, 'root/default/id/kybernate-restored');
  }

  /**
   * Writes a specification that asks for a restore.
   * @param mounts of the container; those of the checkpoint are the same
   * @returns its text
   */
  asks(more: Record<string, string> = {}, env: readonly string[] = [], mounts?: readonly object[]): string {
    const annotations = { 'kybernate.io/restore-from': 'ck-1', ...more };
    const text = JSON.stringify({ annotations, mounts, process: { env } });
    writeFileSync(join(this.dir, 'checkpoint/config.json'), JSON.stringify({ mounts }));
    writeFileSync(this.config(), text);
    return text;
  }

  deps(more: Partial<WrapperDeps> = {}): WrapperDeps {
    const { dir, volumes, prepared, completed, logged, ran } = this;
    const config = (): string => this.config();
    return {
      runcPath: '/bin/runc',
      runDir: join(dir, 'run'),
      agent: {
        prepareRestore(call) {
          prepared.push(call);
          return Promise.resolve({
            operationId: OPERATION,
            checkpointDir: join(dir, 'checkpoint'),
            imageDir: join(dir, 'checkpoint/criu'),
            workDir: join(dir, 'work'),
            tcp: 'close',
            onFailure: call.onFailure === 'cold-start' ? 'cold-start' : 'fail',
            hasMetadata: true,
            restoreBudgetMs: 1000,
            ...(volumes === undefined ? {} : { volumes }),
          });
        },
        completeRestore(call) {
          completed.push(call);
          return Promise.resolve({ proceed: true });
        },
      },
      run: (file, args) => {
        ran.push([file, ...args].join(' '));
        return Promise.resolve(OK);
      },
      runInherited: (file, args, options) => {
        ran.push([file, ...args].join(' '));
        ran.push(`criu: ${readFileSync(options.env?.['CRIU_CONFIG_FILE'] ?? '', 'utf8').trim()}`);
        ran.push(
          `env in config: ${(JSON.parse(readFileSync(config(), 'utf8')) as { process: { env: string[] } }).process.env.join(' ')}`,
        );
        writeFileSync(join(dir, 'bundle/init.pid'), '4711');
        return Promise.resolve(OK);
      },
      env: {},
      signal: new AbortController().signal,
      log: (_create, level, message) => logged.push(`${level} ${message}`),
      ...more,
    };
  }

  /** A runc whose CRIU says no. */
  failing(): Pick<WrapperDeps, 'runInherited'> {
    return {
      runInherited: () => {
        writeFileSync(join(this.dir, 'work/restore.log'), '(00.1) Error (criu/x.c:1): no such thing\n');
        return Promise.resolve({ ...OK, exitCode: 1 });
      },
    };
  }
}
