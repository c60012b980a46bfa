/* `kybernate transfer`: the calls of proto/transfer.proto to the sidecar of this node. */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import type { TransferFlags } from '../run-transfer.ts';
import { addHelpTexts, jsonOption, withoutUndefined } from '../options.ts';

interface UploadFlags extends TransferFlags {
  readonly tier?: string;
  readonly compress?: string;
  readonly hash?: string;
}
interface DownloadFlags extends TransferFlags {
  readonly tier?: string;
  readonly stored?: boolean;
}
interface PrefetchFlags extends TransferFlags {
  readonly tier?: string;
  readonly node?: string;
}

const EXIT_CODES = exitCodesHelp(['CheckpointNotFound', 'StorageUnavailable', 'StorageDenied', 'KeyUnavailable']);

export function addTransferCommand(program: Command, cli: Cli): void {
  const group = program
    .command('transfer')
    .summary('have the sidecar of this node send and fetch')
    .description(
      'Asks the sidecar of this node for a transfer and follows it. The transfer goes on without this command; its ' +
        'status can be asked for a week long. Needs the rights of the sidecar or of root.',
    )
    .helpCommand(false);
  addUpload(group, cli);
  addDownload(group, cli);
  addPrefetch(group, cli);
  addStatus(group, cli);
  addCancel(group, cli);
}

function addUpload(group: Command, cli: Cli): void {
  const command = group
    .command('upload')
    .summary('a checkpoint of this node, or directories under its id, to the store')
    .description(
      'Sends a committed checkpoint of this node to the store. With directories, which must lie below a root of the ' +
        'sidecar (KYBERNATE_SIDECAR_ROOTS), these become a checkpoint of this id: without a process to restore, without ' +
        'a signature.',
    )
    .argument('<checkpoint>', 'id')
    .argument('[directories...]', 'absolute')
    .addOption(
      new Option('--tier <tier>', 'where it lies afterwards, too (default: the store)').choices(['s3', 'nvme', 'ram']),
    )
    .addOption(
      new Option('--compress <codec>', 'for chunks that shrink (default: zstd)').choices(['zstd', 'lz4', 'none']),
    )
    .addOption(new Option('--hash <name>', 'digest of chunks (default: blake3)').choices(['blake3']));
  withCommon(command, [
    ['kybernate transfer upload nightly', 'a checkpoint that is only on this node so far'],
    ['kybernate transfer upload model-7 /srv/artifacts/model', 'a directory'],
  ]);
  command.action((checkpointId: string, paths: string[], flags: UploadFlags) => {
    const { tier, compress, hash } = flags;
    return runTransfer(cli, flags, 'upload', withoutUndefined({ checkpointId, paths, tier, compress, hash }));
  });
}

function addDownload(group: Command, cli: Cli): void {
  const command = group
    .command('download')
    .summary('a checkpoint of the store to a directory of the sidecar')
    .description(
      'Fetches a checkpoint into a directory that must not exist, or be empty, and lie below a root of the sidecar ' +
        '(KYBERNATE_SIDECAR_ROOTS, or downloads in its own directory). Every chunk is checked.',
    )
    .argument('<checkpoint>', 'id')
    .argument('<directory>', 'absolute')
    .addOption(
      new Option('--tier <tier>', 'read it there (default: where it is fastest)').choices(['s3', 'nvme', 'ram']),
    )
    .option('--stored', 'its objects as they are stored: a store of its own, file://<directory>');
  withCommon(command, [['kybernate transfer download nightly /srv/artifacts/nightly', 'its files']]);
  command.action((checkpointId: string, destDir: string, flags: DownloadFlags) => {
    const decompress = flags.stored === true ? 'no' : undefined;
    return runTransfer(
      cli,
      flags,
      'download',
      withoutUndefined({ checkpointId, destDir, tier: flags.tier, decompress }),
    );
  });
}

function addPrefetch(group: Command, cli: Cli): void {
  const command = group
    .command('prefetch')
    .summary('a checkpoint of the store to a tier of a node')
    .description('Brings a checkpoint to a tier of this or another node, by the workflow `prefetch`.')
    .argument('<checkpoint>', 'id')
    .addOption(new Option('--tier <tier>', 'where to (default: nvme)').choices(['ram', 'nvme', 'local']))
    .option('--node <node>', 'to this node (default: the node of the sidecar)');
  withCommon(command, [['kybernate transfer prefetch nightly --tier ram', 'to the memory of this node']]);
  command.action((checkpointId: string, { tier: targetTier, node: targetNode, ...flags }: PrefetchFlags) =>
    runTransfer(cli, flags, 'prefetch', withoutUndefined({ checkpointId, targetTier, targetNode })),
  );
}

function addStatus(group: Command, cli: Cli): void {
  const command = group
    .command('status')
    .summary('how far a transfer has come, or how it ended')
    .argument('<transfer>', 'id')
    .description('Tells how far a transfer has come, or how it ended.')
    .addOption(jsonOption());
  addHelpTexts(command, { examples: [['kybernate transfer status 01c5…', '']], exitCodes: EXIT_CODES });
  command.action(async (id: string, flags: TransferFlags) => {
    const { tellTransfer } = await import('../run-transfer.ts');
    await tellTransfer(cli, flags, 'GET', `/v1/transfers/${encodeURIComponent(id)}`);
  });
}

function addCancel(group: Command, cli: Cli): void {
  const command = group
    .command('cancel')
    .summary('end a transfer')
    .argument('<transfer>', 'id')
    .description('Ends a transfer and waits until it has ended. What was sent stays in the store for the next one.')
    .addOption(jsonOption());
  addHelpTexts(command, { examples: [['kybernate transfer cancel 01c5…', '']], exitCodes: EXIT_CODES });
  command.action(async (id: string, flags: TransferFlags) => {
    const { tellTransfer } = await import('../run-transfer.ts');
    await tellTransfer(cli, flags, 'POST', `/v1/transfers/${encodeURIComponent(id)}/cancel`);
  });
}

function withCommon(command: Command, examples: ReadonlyArray<readonly [string, string]>): void {
  command.option('--detach', 'print the id of the transfer and do not wait').addOption(jsonOption());
  addHelpTexts(command, { examples, exitCodes: EXIT_CODES });
}

async function runTransfer(cli: Cli, flags: TransferFlags, kind: string, call: object): Promise<void> {
  const { startTransfer } = await import('../run-transfer.ts');
  await startTransfer(cli, flags, kind, call);
}
