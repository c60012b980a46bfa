/* The client side of a private containerd: its address, its PATH and ctr, whether it runs or not. */
import { delimiter, dirname, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import type { RunResult } from '../../native/run/run.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { shimDirOf } from './shim.ts';

export interface Containerd {
  readonly address: string;
  readonly dir: string;
  /** PATH as containerd has it: ctr, runc, criu, the shims */
  readonly path: string;
  /** Runs `ctr --address <this one>`; never throws for what ctr does. */
  ctr(args: readonly string[], timeoutMs?: number): Promise<RunResult>;
  /** Runs ctr and returns its stdout. @throws Internal with ctr's stderr when it fails */
  ctrOk(args: readonly string[], timeoutMs?: number): Promise<string>;
}

/** Folders of the Kybernate shim, containerd, ctr, runc, CRIU and Node, for the front of a PATH. */
export function stackDirs(dir: string, env: Env): string[] {
  const names = ['containerd', 'containerd-shim-runc-v2', 'ctr', 'runc', 'criu', 'temporal'] as const;
  const dirs = names.map((name) => dirname(requireProgram(name, env)));
  return [...new Set([shimDirOf(dir), ...dirs, dirname(process.execPath)])];
}

/** PATH for containerd and everything below it: the chosen programs first, whatever else the machine has after them. */
function stackPath(dir: string, env: Env): string {
  const system = (env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin').split(delimiter);
  return [...new Set([...stackDirs(dir, env), ...system, '/usr/sbin', '/sbin'])].join(delimiter);
}

/** The client side of a private containerd, running or not. */
export function openContainerd(dir: string, env: Env): Containerd {
  const address = join(dir, 'containerd.sock');
  const path = stackPath(dir, env);
  const ctr = (args: readonly string[], timeoutMs = 120_000): Promise<RunResult> =>
    // Without the variable every call prints that cgroup v1 goes away one day.
    runExeca(requireProgram('ctr', env), ['--address', address, ...args], {
      env: { PATH: path, CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' },
      timeoutMs,
    });
  return {
    address,
    dir,
    path,
    ctr,
    async ctrOk(args, timeoutMs) {
      const result = await ctr(args, timeoutMs);
      if (result.exitCode !== 0) {
        const why = result.startError ?? result.stderr.trim();
        throw new KybernateError(
          'Internal',
          `ctr ${args.join(' ')} failed (${result.exitCode ?? result.signal}): ${why}`,
        );
      }
      return result.stdout;
    },
  };
}
