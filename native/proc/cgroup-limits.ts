/* Limits of a cgroup, given to another one. Source: kernel Documentation/admin-guide/cgroup-v2.rst. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** `memory.max`, `cpu.max`, `pids.max`, `io.weight`, `cpuset.cpus`, ...; not `cgroup.max.depth` and the like. */
const LIMIT = /^(?!cgroup\.).*\.(?:max|high|weight)$|^cpuset\.(?:cpus|mems)$/;

/**
 * @param from directory of a cgroup v2
 * @param to directory of another one below the same parent, hence with the same controllers
 */
export function copyLimits(from: string, to: string): void {
  for (const name of readdirSync(to).filter((file) => LIMIT.test(file))) {
    const [wanted, now] = [from, to].map((dir) => readFileSync(join(dir, name), 'utf8').trim());
    // Some have a line for each device, and take one line at a time.
    const lines = wanted === undefined || wanted === now ? [] : wanted.split('\n');
    lines.forEach((line) => writeFileSync(join(to, name), line));
  }
}
