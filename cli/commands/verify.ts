/* `kybernate verify`: starts the workflow `verifyCheckpoint`, or looks at a directory without any server. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { PlaceReport, VerifyRequest, VerifyResult } from '../../core/contract/verify.ts';
import { ERRORS, KybernateError } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { runLocally } from '../local-work.ts';
import { addHelpTexts, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput } from '../output.ts';
import { renderCopies } from '../render-copies.ts';
import { runOperation } from '../run-operation.ts';
import { checkRequest, type FlagNames } from '../validate.ts';

export interface VerifyFlags {
  readonly full?: boolean;
  readonly where?: VerifyRequest['where'];
  readonly node?: string;
  readonly path?: string;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export const COPY_FLAGS: FlagNames = { checkpointId: '<checkpoint>', node: '--node', where: '--where', mode: '--full' };

export function addVerifyCommand(program: Command, cli: Cli): void {
  const command = program
    .command('verify')
    .summary('check whether the copies of a checkpoint are whole')
    .description(
      'Looks at the copy in the store, read through the sidecar of a node, and at the copy on that node. Without --full only ' +
        'presence and sizes are compared. Every damage is listed, with file, chunk and object; nothing is changed.',
    )
    .argument('[checkpoint]', 'checkpoint id, as `kybernate ls` shows it')
    .option('--full', 'read every byte and compare it with its digest')
    .addOption(new Option('--where <place>', 'which copy (default: both)').choices(['store', 'node', 'both']))
    .option('--node <name>', 'node that looks (default: KYBERNATE_NODE, or the host name)')
    .option('--path <directory>', 'instead of an id: a checkpoint directory on this host; needs no server')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate verify nightly', 'is everything there, with its size?'],
      ['kybernate verify nightly --full --where store', 'read it back from the store, every byte'],
      ['kybernate verify --path /backup/checkpoint-nightly --full', 'a directory, without Temporal'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'SignatureInvalid',
      'NodeUnavailable',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string | undefined, flags: VerifyFlags) => runVerify(cli, checkpoint, flags));
}

async function runVerify(cli: Cli, checkpoint: string | undefined, flags: VerifyFlags): Promise<void> {
  if (flags.path !== undefined) {
    if (checkpoint !== undefined || flags.where !== undefined || flags.node !== undefined) {
      throw new KybernateError(
        'InvalidInput',
        '--path stands for itself: give no checkpoint id, no --where, no --node',
      );
    }
    await verifyPath(cli, flags.path, flags);
    return;
  }
  if (checkpoint === undefined) {
    throw new KybernateError('InvalidInput', 'give a checkpoint id, or --path <directory>', {
      details: { remedy: '`kybernate ls` shows the ids' },
    });
  }
  const output = createOutput(cli.streams, flags);
  const { verifyInput } = await import('../../core/contract/verify.ts');
  const wish = {
    checkpointId: checkpoint,
    node: flags.node ?? cli.config().node,
    where: flags.where,
    mode: flags.full === true ? 'full' : 'quick',
  };
  const request = await checkRequest(verifyInput, withoutUndefined(wish), COPY_FLAGS);
  await runOperation(
    cli,
    (operations) => operations.verify(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `verification of ${request.checkpointId} on ${request.node}`,
      detach: flags.detach,
      render: ({ places, mode }: VerifyResult) => renderCopies(places, mode),
      exitCode: ({ ok }) => (ok ? undefined : ERRORS.CheckpointCorrupt.exitCode),
    },
  );
}

async function verifyPath(cli: Cli, path: string, flags: VerifyFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { surveyDirectory } = await import('../../store/survey.ts');
  const mode = flags.full === true ? 'full' : 'quick';
  const work = { output, title: `verification of ${path}`, phase: 'verifying', name: path } as const;
  const report: PlaceReport = await runLocally(cli, work, (op) => surveyDirectory({ dir: path, mode, op }));
  if (!report.found) {
    throw new KybernateError('CheckpointNotFound', `${path} is no committed checkpoint: it has no metadata.json`, {
      details: { path },
    });
  }
  output.result({ mode, ok: report.ok, places: [report] }, () => renderCopies([report], mode));
  if (!report.ok) {
    cli.setExitCode(ERRORS.CheckpointCorrupt.exitCode);
  }
}
