/* `kybernate gpu list` and `kybernate gpu status`: what the driver of this machine says. Both change nothing. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { GpuDevice, GpuDriver, GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';
import { formatBytes } from '../units.ts';

interface Flags {
  readonly json?: boolean;
}

/** Reading a state waits while the driver saves or restores the process. */
const STATE_DEADLINE_MS = 60_000;

export function addGpuListCommand(group: Command, cli: Cli): void {
  const command = group
    .command('list')
    .summary('the GPUs of this machine, and who uses their memory')
    .description(
      'Lists the GPUs that the NVIDIA driver of this machine knows, with free and total memory and the processes that ' +
        'hold some of it. Needs no worker and no Temporal.',
    )
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [['kybernate gpu list', 'every GPU, then every process']],
    exitCodes: exitCodesHelp(['GpuUnsupported']),
  });
  command.action(async (flags: Flags) => {
    const { requireGpuDriver } = await import('../gpu-node.ts');
    const driver = requireGpuDriver(cli.env);
    const devices = driver.devices();
    const processes = driver.memoryInUse();
    const { version, apiVersion } = driver;
    createOutput(cli.streams, flags).result({ driver: { version, apiVersion }, devices, processes }, () =>
      [renderPairs([['driver', driverText(driver)]]), renderDevices(devices), renderProcesses(devices, processes)]
        .filter((part) => part !== '')
        .join('\n\n'),
    );
  });
}

/** `580.159.04, CUDA 13.0` */
export function driverText({ version, apiVersion }: Pick<GpuDriver, 'version' | 'apiVersion'>): string {
  return `${version}, CUDA ${Math.floor(apiVersion / 1000)}.${Math.floor((apiVersion % 1000) / 10)}`;
}

function renderDevices(devices: readonly GpuDevice[]): string {
  if (devices.length === 0) {
    return 'the driver knows no GPU';
  }
  return renderTable(devices, [
    { title: 'DEVICE', value: ({ minor }) => `/dev/nvidia${minor}` },
    { title: 'NAME', value: ({ name }) => name },
    { title: 'UUID', value: ({ uuid }) => uuid },
    { title: 'COMPUTE', value: ({ computeCapability }) => computeCapability },
    { title: 'FREE', value: ({ memoryFreeBytes }) => formatBytes(memoryFreeBytes), align: 'right' },
    { title: 'TOTAL', value: ({ memoryTotalBytes }) => formatBytes(memoryTotalBytes), align: 'right' },
    { title: 'NOTE', value: ({ mig }) => (mig ? 'MIG: cannot be checkpointed' : '') },
  ]);
}

function renderProcesses(devices: readonly GpuDevice[], processes: readonly GpuMemoryUse[]): string {
  if (processes.length === 0) {
    return '';
  }
  return renderTable(processes, [
    { title: 'PID', value: ({ hostPid }) => String(hostPid), align: 'right' },
    { title: 'DEVICE', value: ({ uuid }) => `/dev/nvidia${devices.find((one) => one.uuid === uuid)?.minor ?? '?'}` },
    { title: 'MEMORY', value: ({ usedBytes }) => formatBytes(usedBytes), align: 'right' },
  ]);
}

export function addGpuStatusCommand(group: Command, cli: Cli): void {
  const command = group
    .command('status')
    .summary('what the GPU driver says of processes')
    .description(
      'Shows the state of processes in the GPU driver (running, locked, checkpointed, failed; none: not a CUDA ' +
        'process), the memory that they hold on each GPU, and the device files that they have open. Waits while the ' +
        'driver saves or restores one of them. Needs root, or the right to trace them.',
    )
    .argument('<pid...>', 'host pids', pidArgument)
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate gpu status 4711', 'one process'],
      ['kybernate gpu status 4711 4712 --json', 'several, for a program'],
    ],
    exitCodes: exitCodesHelp(['Incompatible', 'GpuUnsupported']),
  });
  command.action(async (hostPids: readonly number[], flags: Flags) => {
    const rows = await readStatus(cli, hostPids);
    createOutput(cli.streams, flags).result({ processes: rows }, () => rows.map(renderStatus).join('\n\n'));
  });
}

function pidArgument(text: string, previous: readonly number[] = []): number[] {
  if (!/^[1-9]\d{0,9}$/.test(text)) {
    throw new InvalidArgumentError('Give the pid of a process, as the host sees it.');
  }
  return [...previous, Number(text)];
}

interface ProcessStatus {
  readonly hostPid: number;
  readonly state: string;
  /** thread of the process in which the driver works for a save or restore */
  readonly restoreThreadId?: number;
  readonly memory: readonly GpuMemoryUse[];
  /** paths of /dev/nvidia* with the number of descriptors */
  readonly deviceFiles: Readonly<Record<string, number>>;
}

async function readStatus(cli: Cli, hostPids: readonly number[]): Promise<ProcessStatus[]> {
  const absent = hostPids.filter((hostPid) => !existsSync(`/proc/${hostPid}`));
  if (absent.length > 0) {
    throw new KybernateError('InvalidInput', `there is no process ${absent.join(', ')} on this machine`);
  }
  const [{ requireGpuDriver, cudaBindings }, { openFds }] = await Promise.all([
    import('../gpu-node.ts'),
    import('../../native/proc/fds.ts'),
  ]);
  const driver = requireGpuDriver(cli.env);
  const memory = driver.memoryInUse();
  const cuda = cudaBindings(cli.env);
  return Promise.all(
    hostPids.map(async (hostPid) => {
      const state = await stateOf(driver, hostPid);
      const thread = state === 'none' ? undefined : await cuda?.getRestoreThreadId(hostPid);
      const deviceFiles: Record<string, number> = {};
      for (const { target } of openFds(hostPid)) {
        if (target.startsWith('/dev/nvidia')) {
          deviceFiles[target] = (deviceFiles[target] ?? 0) + 1;
        }
      }
      return {
        hostPid,
        state,
        ...(thread?.code === 0 ? { restoreThreadId: thread.value } : {}),
        memory: memory.filter((use) => use.hostPid === hostPid),
        deviceFiles,
      };
    }),
  );
}

async function stateOf(driver: GpuDriver, hostPid: number): Promise<string> {
  try {
    return await driver.processState(hostPid, STATE_DEADLINE_MS);
  } catch (error) {
    const [{ CUDA }, { CudaTimeout, isCudaError }] = await Promise.all([
      import('../../native/cuda/codes.ts'),
      import('../../native/cuda/error.ts'),
    ]);
    if (error instanceof CudaTimeout) {
      return 'busy';
    }
    if (isCudaError(error, CUDA.OPERATING_SYSTEM)) {
      const why = error.gone ? 'it has ended' : 'it may not be traced: run this as root, in the host pid namespace';
      throw new KybernateError('Incompatible', `the state of pid ${hostPid} cannot be read: ${why}`, { cause: error });
    }
    throw error;
  }
}

function renderStatus(status: ProcessStatus): string {
  const files = Object.entries(status.deviceFiles).map(([path, count]) => `${path} x ${count}`);
  return renderPairs([
    ['pid', String(status.hostPid)],
    ['state', status.state === 'none' ? 'none: not a CUDA process' : status.state],
    ['restore thread', status.restoreThreadId === undefined ? undefined : String(status.restoreThreadId)],
    ['VRAM', status.memory.map(({ uuid, usedBytes }) => `${formatBytes(usedBytes)} on ${uuid}`).join('\n') || 'none'],
    ['device files', files.join('\n') || 'none'],
  ]);
}
