/*
 * `kybernate process restore`: by the workflow `restoreProcess`, or here: a directory, and whatever is to run on the
 * caller's own terminal and streams, which no worker has.
 */
import { resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import type { RestoreProcessResult } from '../../core/contract/process.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts, durationArgument, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatDuration } from '../units.ts';
import { checkRequest, type FlagNames } from '../validate.ts';

export interface ProcessRestoreFlags {
  readonly attach?: boolean;
  readonly node?: string;
  readonly tcp?: 'keep' | 'close';
  readonly stdin?: string;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly directory?: string;
  readonly user?: string;
  readonly source?: 'auto' | 'local' | 'store';
  readonly restoreBudget?: number;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

const FLAGS: FlagNames = {
  node: '--node',
  checkpointId: '<checkpoint>',
  path: '<checkpoint>',
  tcp: '--tcp',
  'stdio.stdin': '--stdin',
  'stdio.stdout': '--stdout',
  'stdio.stderr': '--stderr',
  directory: '--directory',
  source: '--source',
  restoreBudgetMs: '--restore-budget',
};

/** @param group the command `process` */
export function addProcessRestoreCommand(group: Command, cli: Cli): void {
  const command = group
    .command('restore')
    .summary('bring the processes of a checkpoint back')
    .description(
      'Brings the processes of a checkpoint back under their own pids, as the users they were, on the files of the node. ' +
        'Every byte is checked first. They run on their own, in a cgroup of their own; with --attach they are children of ' +
        'this command, on its terminal and in place of pipes on its streams: it hands signals on, and ends with their ' +
        'exit code. A directory, and --attach, are restored by this command itself, as root and without Temporal.',
    )
    .argument('<checkpoint>', 'checkpoint id, or directory of a checkpoint on this machine')
    .option('--attach', 'stay with the processes until they end')
    .option('--node <name>', 'node to restore on (default: KYBERNATE_NODE, or the host name)')
    .addOption(new Option('--tcp <policy>', 'established TCP connections (default: close)').choices(['keep', 'close']))
    .option('--stdin <file>', 'in place of a pipe; a file, or null (default: null)')
    .option('--stdout <file>', 'in place of a pipe; appended to, or null (default: null)')
    .option('--stderr <file>', 'in place of a pipe; appended to, or null (default: null)')
    .option('--directory <path>', 'another working directory')
    .option('--user <name>', 'refused: processes come back as the users they were')
    .addOption(
      new Option('--source <where>', 'which copy (default: auto: this node, else the store)').choices([
        'auto',
        'local',
        'store',
      ]),
    )
    .option('--restore-budget <duration>', 'longest time for CRIU (default: 5m)', durationArgument)
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate process restore ck-20260801-1a2b3c4d', 'on this node, on its own'],
      ['kybernate process restore ck-20260801-1a2b3c4d --attach', 'an editor or a shell job, on this terminal'],
      ['kybernate process restore ck-20260801-1a2b3c4d --stdout /var/log/job.log', 'its output was a pipe'],
      ['sudo kybernate process restore /srv/checkpoints/checkpoint-job', 'a directory, without Temporal'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'NodeUnavailable',
      'Incompatible',
      'RestoreRefused',
      'RestoreFailed',
      'CheckpointCorrupt',
      'SignatureInvalid',
      'StorageUnavailable',
      'StorageDenied',
      'DiskFull',
      'LockLost',
      'CompensationFailed',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string, flags: ProcessRestoreFlags) => runProcessRestore(cli, checkpoint, flags));
}

async function runProcessRestore(cli: Cli, checkpoint: string, flags: ProcessRestoreFlags): Promise<void> {
  if (flags.user !== undefined) {
    throw new KybernateError(
      'InvalidInput',
      `--user ${flags.user}: the processes come back as the users they were; their memory and files are those users'`,
      { details: { remedy: 'leave it away' } },
    );
  }
  const isPath = checkpoint.includes('/');
  const { restoreProcessInput } = await import('../../core/contract/process.ts');
  const stdio = { stdin: fileOf(flags.stdin), stdout: fileOf(flags.stdout), stderr: fileOf(flags.stderr) };
  function fileOf(path: string | undefined): string | undefined {
    return path === undefined || path === 'null' ? path : resolve(path);
  }
  const request = await checkRequest(
    restoreProcessInput,
    withoutUndefined({
      node: flags.node ?? cli.config().node,
      ...(isPath ? { path: resolve(checkpoint) } : { checkpointId: checkpoint }),
      tcp: flags.tcp,
      stdio: withoutUndefined(stdio),
      directory: flags.directory === undefined ? undefined : resolve(flags.directory),
      source: flags.source,
      restoreBudgetMs: flags.restoreBudget,
    }),
    FLAGS,
  );
  if (isPath || flags.attach === true) {
    needsRoot(cli, `process restore ${isPath ? checkpoint : '--attach'}`);
    const { restoreHere } = await import('../process-here.ts');
    await restoreHere(cli, request, { ...flags, render: renderRestoredProcess });
    return;
  }
  await runOperation(
    cli,
    (operations) => operations.restoreProcess(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output: createOutput(cli.streams, flags),
      title: `restore of the processes of ${checkpoint} on ${request.node}`,
      detach: flags.detach,
      render: renderRestoredProcess,
    },
  );
}

export function renderRestoredProcess(
  result: Pick<RestoreProcessResult, 'checkpointId' | 'node' | 'pid' | 'processes' | 'restoreMs' | 'warnings'>,
): string {
  return renderPairs([
    ['checkpoint', result.checkpointId],
    [
      'process',
      `${result.pid} on ${result.node}${result.processes > 1 ? `, and ${result.processes - 1} below it` : ''}`,
    ],
    ['restored in', formatDuration(result.restoreMs)],
    ['warnings', result.warnings.length === 0 ? undefined : result.warnings.join('\n')],
  ]);
}
