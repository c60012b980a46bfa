/* What kind of machine this is: for the results, and to decide which cases can run. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

import { cgroupVersion } from '../../native/proc/cgroup.ts';

/** Where the driver's libraries and programs lie on machines that mount them; absent elsewhere. */
export const DRIVER_DIR = '/usr/local/nvidia';

export interface Gpu {
  readonly uuid: string;
  readonly name: string;
  readonly minor: number;
  readonly memoryMib: number;
}

export interface Machine {
  readonly kernel: string;
  readonly os: string;
  readonly cpus: number;
  readonly memoryGib: number;
  readonly cgroupVersion: 1 | 2;
  readonly node: string;
  readonly python?: string;
  readonly driver?: string;
  readonly gpus: readonly Gpu[];
}

function output(file: string, args: readonly string[]): string | undefined {
  const result = spawnSync(file, args, { encoding: 'utf8', timeout: 30_000 });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

function smi(): string {
  const own = `${DRIVER_DIR}/bin/nvidia-smi`;
  return existsSync(own) ? own : 'nvidia-smi';
}

/** Asked of nvidia-smi: what our own code finds is what the cases check against it. */
function findGpus(): { driver?: string; gpus: Gpu[] } {
  const fields = 'uuid,name,index,memory.total,driver_version';
  const lines = output(smi(), [`--query-gpu=${fields}`, '--format=csv,noheader,nounits'])?.split('\n') ?? [];
  const gpus: Gpu[] = [];
  let driver: string | undefined;
  for (const line of lines) {
    const [uuid = '', name = '', index, memory, version] = line.split(', ');
    gpus.push({ uuid, name, minor: minorOf(Number(index)), memoryMib: Number(memory) });
    driver = version;
  }
  return { ...(driver === undefined ? {} : { driver }), gpus };
}

/** nvidia-smi's index follows the bus, not the minor; the driver's own files tell which is which. */
function minorOf(index: number): number {
  const dir = '/proc/driver/nvidia/gpus';
  const bus = existsSync(dir) ? readdirSync(dir).sort()[index] : undefined;
  const text = bus === undefined ? '' : readFileSync(`${dir}/${bus}/information`, 'utf8');
  return Number(/Device Minor:\s*(\d+)/.exec(text)?.[1] ?? index);
}

export function describeMachine(): Machine {
  const python = output('python3', ['-c', 'import sys; print(sys.executable)']);
  return {
    kernel: release(),
    os: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown',
    cpus: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    cgroupVersion: cgroupVersion(),
    node: process.version,
    ...(python === undefined ? {} : { python }),
    ...findGpus(),
  };
}
