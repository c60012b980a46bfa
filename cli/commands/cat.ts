/* `kybernate cat`: a file of a checkpoint, a part of it, or memory of a process, without fetching the rest. */
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { parseByteSize } from '../../core/byte-size.ts';
import { KybernateError } from '../../core/errors.ts';
import type { CheckpointCopy } from '../../store/copy.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { runLocally } from '../local-work.ts';
import { withCopy, type CopyPlace } from '../open-copy.ts';
import { addHelpTexts } from '../options.ts';
import { createOutput } from '../output.ts';
import { copyOption } from './export.ts';

interface CatFlags {
  readonly offset?: number;
  readonly bytes?: number;
  readonly pid?: number;
  readonly address?: bigint;
  readonly from?: CopyPlace;
  readonly store?: string;
}

export function addCatCommand(program: Command, cli: Cli): void {
  const command = program
    .command('cat')
    .summary('print a file of a checkpoint, or memory of a captured process')
    .description(
      'Writes a file of a checkpoint to standard output, or the bytes at an address of a captured process. From a store ' +
        'only the chunks with these bytes are read; every one is checked. `kybernate inspect --files` lists the files.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .argument('[path]', 'file of the checkpoint')
    .option('--offset <size>', 'begin there (default: 0)', sizeArgument)
    .option('--bytes <size>', 'this many bytes, for example 4KiB (default: up to the end)', sizeArgument)
    .option('--pid <number>', 'process, by its pid in the container, as `kybernate inspect` shows it', sizeArgument)
    .option('--address <number>', 'address in that process, for example 0x7f00deadb000', addressArgument)
    .addOption(copyOption())
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)');
  addHelpTexts(command, {
    examples: [
      ['kybernate cat nightly config.json', 'the OCI specification'],
      ['kybernate cat nightly fs/rootfs-diff.tar | tar --list', 'what the container had written'],
      ['kybernate cat nightly --pid 1 --address 0x55d0c0a0b000 --bytes 4KiB | xxd', 'a page of its heap'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string, path: string | undefined, flags: CatFlags) =>
    runCat(cli, checkpoint, path, flags),
  );
}

function sizeArgument(text: string): number {
  const size = parseByteSize(text);
  if (size === undefined) {
    throw new InvalidArgumentError('Give a number, with a unit or without: 4096, 4KiB.');
  }
  return size;
}

function addressArgument(text: string): bigint {
  if (!/^(?:0x[0-9a-fA-F]{1,16}|\d{1,20})$/.test(text)) {
    throw new InvalidArgumentError('Give a number: 0x7f00deadb000.');
  }
  return BigInt(text);
}

async function runCat(cli: Cli, checkpointId: string, path: string | undefined, flags: CatFlags): Promise<void> {
  const config = cli.config();
  const wanted = wish(path, flags);
  const work = { output: createOutput(cli.streams, {}), title: `reading ${checkpointId}`, name: checkpointId } as const;
  const which = { checkpointId, from: flags.from ?? 'auto', storeUrl: flags.store ?? config.store, whole: false };
  await runLocally(cli, { ...work, phase: 'exporting' }, (op) =>
    withCopy(config, which, op, async (copy) => {
      for await (const piece of await wanted(copy)) {
        op.signal.throwIfAborted();
        await cli.terminal.write(piece);
      }
    }),
  );
}

/** @throws InvalidInput a combination that means nothing, before anything is opened */
function wish(path: string | undefined, flags: CatFlags): (copy: CheckpointCopy) => Promise<AsyncIterable<Uint8Array>> {
  const { pid, address, bytes, offset = 0 } = flags;
  if (pid !== undefined) {
    if (path !== undefined || address === undefined || bytes === undefined || flags.offset !== undefined) {
      throw new KybernateError(
        'InvalidInput',
        '--pid goes with --address and --bytes, and with no path and no --offset',
      );
    }
    return async (copy) => (await import('../../store/copy.ts')).readMemory(copy, { pid, address, bytes });
  }
  if (path === undefined || address !== undefined) {
    throw new KybernateError('InvalidInput', 'give the path of a file, or --pid with --address and --bytes');
  }
  return async (copy) => {
    const { fileOf } = await import('../../store/copy.ts');
    const file = fileOf(copy, path);
    const end = Math.min(file.bytes, bytes === undefined ? file.bytes : offset + bytes);
    return copy.read(file, { offset, bytes: Math.max(0, end - offset) });
  };
}
