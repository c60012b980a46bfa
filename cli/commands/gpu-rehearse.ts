/* `kybernate gpu rehearse`: flags → RehearseRequest → workflow `rehearse` → progress → result. */
import type { Command } from 'commander';
import type { RehearseResult } from '../../core/contract/gpu.ts';
import type { Cli } from '../cli.ts';
import { CONTAINER_FLAGS, containerOf, containerText } from '../container-argument.ts';
import type { ContainerFlags } from '../container-argument.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { GPU_FLAGS, addGpuOptions, gpuOptionsOf } from '../gpu-options.ts';
import type { GpuFlags } from '../gpu-options.ts';
import { addHelpTexts, durationArgument, jsonOption, podArgument, withoutUndefined } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration } from '../units.ts';
import { checkRequest, readRequest } from '../validate.ts';
import type { FlagNames } from '../validate.ts';

interface RehearseFlags extends ContainerFlags, GpuFlags {
  readonly node?: string;
  readonly gpuBudget?: number;
  readonly input?: string;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export const REHEARSE_FLAGS: FlagNames = {
  node: '--node',
  freezeBudgetMs: '--gpu-budget',
  ...CONTAINER_FLAGS,
  ...GPU_FLAGS,
};

/** A flag overrides the same field of the input file; `node` is used when neither names one. */
function rehearseRequest(
  container: string | undefined,
  flags: RehearseFlags,
  base: Readonly<Record<string, unknown>>,
  node: () => string,
): Record<string, unknown> {
  return {
    ...base,
    ...withoutUndefined({ freezeBudgetMs: flags.gpuBudget, gpu: gpuOptionsOf(flags, base['gpu']) }),
    node: flags.node ?? base['node'] ?? node(),
    container: containerOf(container, flags, base['container']),
  };
}

export function renderRehearseResult(result: RehearseResult): string {
  const parts = Object.entries(result.parts).map(([name, ms]) => `${name} ${formatDuration(ms)}`);
  return renderPairs([
    ['container', `${result.container.namespace}/${result.container.id} on ${result.node}`],
    ['rehearsal', 'passed: the GPU state came back, and the container runs on'],
    ['GPU processes', String(result.gpuProcesses)],
    ['VRAM', formatBytes(result.vramBytes)],
    ['out of use for', result.gpuPauseMs === undefined ? undefined : formatDuration(result.gpuPauseMs)],
    ['parts', parts.length === 0 ? undefined : parts.join('\n')],
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
}

/** @param group the command `gpu` */
export function addGpuRehearseCommand(group: Command, cli: Cli): void {
  const command = group
    .command('rehearse')
    .summary('save and restore the GPU state of a container in place')
    .description(
      'Locks, saves, restores and unlocks the GPU state of a running container. Nothing is captured. It shows, while a ' +
        'job is young, whether the driver can bring it back; a job that it cannot bring back is LOST by this.',
    )
    .argument('[container]', 'containerd id of the container')
    .option('--pod <namespace/name/container>', 'name the container by its Kubernetes pod instead', podArgument)
    .option('--docker <name>', 'name the container as Docker does instead: its name or id')
    .option('--node <name>', 'node that runs the container (default: KYBERNATE_NODE, or the host name)')
    .option('--namespace <name>', 'containerd namespace (default: "default", or "k8s.io" with --pod)')
    .option('--gpu-budget <duration>', 'longest time for the GPU to be out of use (default: 2m)', durationArgument);
  addGpuOptions(command)
    .option('--input <file>', 'read the whole request as JSON from a file, or - for stdin; flags override it')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate gpu rehearse train', 'in its first minutes, before there is anything to lose'],
      ['kybernate gpu rehearse --pod ml/train-0/main --node gpu-3 --json', 'from a script'],
    ],
    exitCodes: exitCodesHelp([
      'ContainerNotFound',
      'ContainerNotRunning',
      'NodeUnavailable',
      'Incompatible',
      'GpuUnsupported',
      'GpuBusy',
      'GpuOutOfMemory',
      'DumpFailed',
      'FreezeBudgetExceeded',
      'LockLost',
      'CompensationFailed',
      'Poisoned',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
      'RuntimeUnavailable',
    ]),
  });
  command.action((container: string | undefined, flags: RehearseFlags) => runRehearse(cli, container, flags));
}

async function runRehearse(cli: Cli, container: string | undefined, flags: RehearseFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { rehearseInput } = await import('../../core/contract/gpu.ts');
  const base = await readRequest(flags.input, cli.terminal);
  const request = await checkRequest(
    rehearseInput,
    rehearseRequest(container, flags, base, () => cli.config().node),
    REHEARSE_FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.rehearse(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `rehearsal of ${containerText(request.container)} on ${request.node}`,
      detach: flags.detach,
      render: renderRehearseResult,
    },
  );
}
