/* `kybernate export`: a checkpoint as one tar stream, to a file or to a pipe, without a second copy on the disk. */
import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { Option } from 'commander';
import type { Command } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { runLocally } from '../local-work.ts';
import { withCopy, type CopyPlace } from '../open-copy.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { formatBytes } from '../units.ts';

interface ExportFlags {
  readonly output?: string;
  readonly zstd?: boolean;
  readonly from?: CopyPlace;
  readonly store?: string;
  readonly json?: boolean;
}

/** Takes the bytes of an archive; each piece is used up when `write` has returned. */
interface Sink {
  write(bytes: Uint8Array): Promise<void>;
  /** makes it visible */
  finish(): Promise<void>;
  /** takes away what was written */
  discard(): Promise<void>;
}

export function addExportCommand(program: Command, cli: Cli): void {
  const command = program
    .command('export')
    .summary('write a checkpoint to a file or a pipe')
    .description(
      'Writes a checkpoint as one tar archive: to standard output, or to a file that appears when it is whole. Every byte ' +
        'is checked on its way. Any tar unpacks it to a checkpoint directory; `kybernate import` checks it again.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .option('-o, --output <file>', 'write to this file; compressed when its name ends with .zst or .tzst')
    .option('--zstd', 'compress the archive, whatever its name')
    .addOption(copyOption())
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate export nightly -o nightly.tar.zst', 'to a file'],
      ['kybernate export nightly --from store | ssh other kybernate import -', 'to another machine'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'DiskFull',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string, flags: ExportFlags) => runExport(cli, checkpoint, flags));
}

export function copyOption(): Option {
  return new Option('--from <place>', 'which copy: of this host, or of the store (default: auto)').choices([
    'auto',
    'node',
    'store',
  ]);
}

async function runExport(cli: Cli, checkpointId: string, flags: ExportFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  if (flags.output === undefined && (flags.json === true || cli.streams.stdout.isTTY === true)) {
    throw new KybernateError(
      'InvalidInput',
      'an archive is no text: give -o <file>, or pipe standard output somewhere',
    );
  }
  const compress = flags.zstd === true || /\.t?zst$/.test(flags.output ?? '');
  const { exportCheckpoint } = await import('../../store/export.ts');
  const work = { output, title: `export of ${checkpointId}`, phase: 'exporting', name: checkpointId } as const;
  const wish = { checkpointId, from: flags.from ?? 'auto', storeUrl: flags.store ?? config.store, whole: true };
  const result = await runLocally(cli, work, (op) =>
    withCopy(config, wish, op, async (copy, from) => {
      const sink = flags.output === undefined ? stdoutSink(cli) : await fileSink(flags.output);
      const archive = exportCheckpoint(copy, op);
      const bytes = await send(compress ? compressed(archive) : archive, sink);
      return { checkpointId, from, file: flags.output, bytes, totalBytes: copy.manifest.totalBytes };
    }),
  );
  if (flags.output !== undefined) {
    output.result(
      result,
      () => `${flags.output ?? ''}: ${formatBytes(result.bytes)}, ${checkpointId} from the ${result.from}`,
    );
  }
}

async function send(pieces: AsyncIterable<Uint8Array>, sink: Sink): Promise<number> {
  let bytes = 0;
  try {
    for await (const piece of pieces) {
      await sink.write(piece);
      bytes += piece.length;
    }
    await sink.finish();
    return bytes;
  } catch (error) {
    await sink.discard();
    throw error;
  }
}

async function* compressed(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { createZstdCompress } = await import('node:zlib');
  // Never with workers: Node loses output then.
  const zstd = createZstdCompress();
  const feed = async (): Promise<void> => {
    for await (const piece of pieces) {
      // Its buffer is used again for the next piece.
      await new Promise<void>((resolve, reject) => {
        zstd.write(piece, (error) => (error ? reject(error) : resolve()));
      });
    }
    zstd.end();
  };
  const feeding = feed().catch((error: unknown) => {
    zstd.destroy(error instanceof Error ? error : new Error(String(error)));
  });
  try {
    yield* zstd as AsyncIterable<Uint8Array>;
  } finally {
    zstd.destroy();
    await feeding;
  }
}

function stdoutSink(cli: Cli): Sink {
  return {
    write: (bytes) => cli.terminal.write(bytes),
    finish: () => Promise.resolve(),
    // Whoever reads the pipe sees an archive without its end.
    discard: () => Promise.resolve(),
  };
}

/** Crash: a file `<name>.<random>.part`. */
async function fileSink(path: string): Promise<Sink> {
  const part = `${path}.${randomBytes(6).toString('hex')}.part`;
  const { mapDiskFull } = await import('../../store/files.ts');
  const handle = await open(part, 'wx', 0o600).catch((error: unknown) => {
    throw new KybernateError('InvalidInput', `cannot write ${path}: ${String(error)}`, { cause: error });
  });
  return {
    write: async (bytes) => {
      try {
        await handle.writeFile(bytes);
      } catch (error) {
        throw mapDiskFull(error, path);
      }
    },
    finish: async () => {
      await handle.datasync();
      await handle.close();
      await rename(part, path);
    },
    discard: async () => {
      await handle.close();
      await rm(part, { force: true });
    },
  };
}
