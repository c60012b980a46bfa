/* `kybernate export`: a checkpoint as one tar stream, to a file or to a pipe, without a second copy on the disk. */
import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { Option } from 'commander';
import type { Command } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { ExportedArchive } from '../../store/archives/export-files.ts';
import type { CheckpointCopy } from '../../store/copy.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { runLocally } from '../local-work.ts';
import { withCopy, type CopyPlace } from '../open-copy.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { formatBytes } from '../units.ts';

const FORMATS = ['kybernate', 'podman', 'cri', 'oci'] as const;

interface ExportFlags {
  readonly format: (typeof FORMATS)[number];
  readonly imageId?: string;
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
        'is checked on its way. Any tar unpacks it to a checkpoint directory; `kybernate import` checks it again. Other ' +
        'formats are for other engines, which know nothing of digests and signatures. See docs/archives.md.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .option('-o, --output <file>', 'write to this file; compressed when its name ends with .zst or .tzst')
    .addOption(
      new Option(
        '--format <format>',
        'kybernate; podman: for `podman container restore --import`; cri: as containerd and the kubelet write it; ' +
          'oci: a checkpoint image in the OCI image layout -o <directory>[:<tag>]',
      )
        .choices(FORMATS)
        .default('kybernate'),
    )
    .option('--image-id <id>', "id of the container's image where it will be restored (default: found by its name)")
    .option('--zstd', 'compress the archive, whatever its name')
    .addOption(copyOption())
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate export nightly -o nightly.tar.zst', 'to a file'],
      [
        'kybernate export nightly --format podman -o nightly.tar.zst',
        'then: podman container restore -i nightly.tar.zst',
      ],
      ['kybernate export nightly --format oci -o ./layout:nightly', 'then: podman pull oci:./layout:nightly'],
      ['kybernate export nightly --from store | ssh other kybernate import -', 'to another machine'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'Incompatible',
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
  if (flags.format === 'oci' && (flags.output === undefined || flags.zstd === true)) {
    throw new KybernateError('InvalidInput', '--format oci: give -o <directory>[:<tag>], and no --zstd');
  }
  if (flags.output === undefined && (flags.json === true || cli.streams.stdout.isTTY === true)) {
    throw new KybernateError(
      'InvalidInput',
      'an archive is no text: give -o <file>, or pipe standard output somewhere',
    );
  }
  const compress = flags.zstd === true || /\.t?zst$/.test(flags.output ?? '');
  const work = { output, title: `export of ${checkpointId}`, phase: 'exporting', name: checkpointId } as const;
  const wish = { checkpointId, from: flags.from ?? 'auto', storeUrl: flags.store ?? config.store, whole: true };
  const result = await runLocally(cli, work, (op) =>
    withCopy(config, wish, op, async (copy, from) => {
      const done = {
        checkpointId,
        from,
        file: flags.output,
        format: flags.format,
        totalBytes: copy.manifest.totalBytes,
      };
      const foreign = flags.format === 'kybernate' ? undefined : await foreignArchive(copy, flags);
      const warnings = foreign?.warnings ?? [];
      if (flags.format === 'oci' && foreign !== undefined) {
        const { bytes } = await toLayout(foreign, flags.output ?? '', op);
        return { ...done, bytes, warnings };
      }
      const sink = flags.output === undefined ? stdoutSink(cli) : await fileSink(flags.output);
      const archive = await piecesOf(copy, foreign, op);
      const bytes = await send(compress ? compressed(archive) : archive, sink);
      return { ...done, bytes, warnings };
    }),
  );
  if (flags.output !== undefined) {
    output.result(result, () =>
      [
        `${flags.output ?? ''}: ${formatBytes(result.bytes)}, ${checkpointId} from the ${result.from}`,
        ...result.warnings.map((warning) => `warning: ${warning}`),
      ].join('\n'),
    );
  }
}

async function foreignArchive(copy: CheckpointCopy, { format, imageId }: ExportFlags): Promise<ExportedArchive> {
  const { exportedFiles } = await import('../../store/archives/export-files.ts');
  return exportedFiles(copy, format === 'cri' ? 'cri' : 'podman', imageId);
}

async function piecesOf(
  copy: CheckpointCopy,
  foreign: ExportedArchive | undefined,
  op: Op,
): Promise<AsyncIterable<Uint8Array>> {
  if (foreign !== undefined) {
    const { archivePieces } = await import('../../store/archives/export-archive.ts');
    return archivePieces(foreign, op);
  }
  const { exportCheckpoint } = await import('../../store/export.ts');
  return exportCheckpoint(copy, op);
}

/** @param output `<directory>[:<tag>]` */
async function toLayout(archive: ExportedArchive, output: string, op: Op): Promise<{ bytes: number }> {
  const { exportImage } = await import('../../store/archives/export-image.ts');
  const colon = output.lastIndexOf(':');
  const named = colon > output.lastIndexOf('/') && colon > 0;
  const dir = named ? output.slice(0, colon) : output;
  return exportImage(archive, { dir, tag: named ? output.slice(colon + 1) : archive.metadata.checkpointId }, op);
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
