/* `kybernate import`: an exported archive becomes a checkpoint of this node, or of a store. */
import { createReadStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { KybernateError, isKybernateError } from '../../core/errors.ts';
import type { Backend } from '../../store/backend/backend.ts';
import type { AnyImport, AnyImported } from '../../store/archives/any-archive.ts';
import { checkpointsDir, withStore } from '../all-checkpoints.ts';
import { addArchiveOptions, foreignImport, type ArchiveFlags } from '../archive-options.ts';
import type { Cli } from '../cli.ts';
import type { CliConfig } from '../config.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { runLocally } from '../local-work.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { formatBytes } from '../units.ts';
import { whyUnread } from '../validate.ts';

interface ImportFlags extends ArchiveFlags {
  readonly store?: string | true;
  readonly json?: boolean;
}

export function addImportCommand(program: Command, cli: Cli): void {
  const command = program
    .command('import')
    .summary('take a checkpoint from a file or a pipe')
    .description(
      'Makes a checkpoint of this node from an archive: of `kybernate export`, or of Podman, CRI-O or containerd ' +
        '(`podman container checkpoint -e`, the checkpoint API of the kubelet), plain or compressed by zstd or gzip; or ' +
        'from an OCI image layout with a checkpoint image. Who signed an archive of ours is checked first ' +
        '(KYBERNATE_SIGNATURES), then every byte while it is written. The others are signed by nobody: they are read ' +
        'under limits, and their specification is cleaned. After every error nothing is left. See docs/archives.md.',
    )
    .argument('<file>', 'archive, directory with an OCI image layout ([:tag] behind it), or - for standard input')
    .option(
      '--store [url]',
      'put it into a store and not on this node; unpacked below TMPDIR (default: KYBERNATE_STORE)',
    )
    .addOption(jsonOption());
  addArchiveOptions(command);
  addHelpTexts(command, {
    examples: [
      ['kybernate import nightly.tar.zst', 'to this node, as root'],
      ['kybernate import podman.tar.gz --id web', 'what `podman container checkpoint -e` wrote'],
      ['kybernate import ./layout:web', 'a checkpoint image, from an OCI image layout'],
      ['ssh other kybernate export nightly | kybernate import - --store', 'to the store'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointCorrupt',
      'SignatureInvalid',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'DiskFull',
      'Cancelled',
    ]),
  });
  command.action((file: string, flags: ImportFlags) => runImport(cli, file, flags));
}

async function runImport(cli: Cli, file: string, flags: ImportFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  const storeUrl = flags.store === true ? config.store : flags.store;
  if (flags.store === true && storeUrl === undefined) {
    throw new KybernateError('InvalidInput', '--store: no store is configured, set KYBERNATE_STORE or give a URL');
  }
  const work = { output, title: `import of ${file}`, phase: 'importing', name: file } as const;
  const result = await runLocally(cli, work, async (op) => {
    const { acceptSigned, acceptUnsigned } = await import('../../store/archives/acceptance.ts');
    const { openTrust } = await import('../../store/crypto/signing.ts');
    const trust = await openTrust({ mode: config.signatures, trustedKeys: config.trustedKeys });
    const request = {
      file,
      input: () => cli.terminal.input(),
      op,
      accept: acceptSigned(trust, op),
      acceptForeign: acceptUnsigned(trust.mode),
      foreign: await foreignImport(flags, storeUrl === undefined),
    };
    try {
      return await (storeUrl === undefined ? toNode(config, request) : toStore(config, storeUrl, request));
    } catch (error) {
      throw ofFile(error, file === '-' ? 'standard input' : file);
    }
  });
  output.result(result, () => {
    const { checkpointId, totalBytes, created } = result;
    const where = 'remote' in result ? result.remote : result.path;
    const first = created
      ? `imported ${checkpointId}, ${formatBytes(totalBytes)}: ${where}`
      : `${checkpointId} was there: ${where}`;
    return [first, ...reportLines(result)].join('\n');
  });
}

/** What is damaged is the file: no checkpoint of it is there that could be verified or repaired. */
function ofFile(error: unknown, file: string): unknown {
  if (!isKybernateError(error, 'CheckpointCorrupt')) {
    return error;
  }
  const details = { remedy: 'the archive is damaged: export it again', ...error.details, file };
  return new KybernateError('CheckpointCorrupt', `${file}: ${error.message}`, { details, cause: error });
}

async function* readArchive(file: string): AsyncGenerator<Uint8Array> {
  const stream = createReadStream(file, { highWaterMark: 2 ** 20 });
  try {
    yield* stream as AsyncIterable<Uint8Array>;
  } catch (error) {
    throw new KybernateError('InvalidInput', `cannot read ${file}: ${whyUnread(error)}`, { cause: error });
  }
}

/** What was changed, and what nobody could know, for an archive of another engine. */
function reportLines({ origin, warnings }: Pick<AnyImported, 'origin' | 'warnings'>): string[] {
  const changes = origin?.specChanges ?? [];
  return [
    ...(origin === undefined ? [] : [`from ${origin.format}, image ${origin.image?.name ?? 'unknown'}`]),
    ...changes.map(({ field, why }) => `changed: ${field}: ${why}`),
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
}

type Archive = Omit<AnyImport, 'stream' | 'checkpointsDir' | 'accept'> & {
  readonly file: string;
  readonly input: () => AsyncIterable<Uint8Array>;
  readonly accept: NonNullable<AnyImport['accept']>;
};

/** From a file, a pipe or an OCI image layout. */
async function importInto(checkpoints: string, { file, input, ...archive }: Archive): Promise<AnyImported> {
  const { importArchive, importImage } = await import('../../store/archives/any-archive.ts');
  const { findLayout } = await import('../../store/archives/oci-layout.ts');
  const layout = file === '-' ? undefined : await findLayout(file);
  if (layout !== undefined) {
    return importImage({ ...archive, checkpointsDir: checkpoints }, layout);
  }
  const stream = file === '-' ? input() : readArchive(file);
  return importArchive({ ...archive, stream, checkpointsDir: checkpoints });
}

async function toNode(config: CliConfig, archive: Archive): Promise<AnyImported> {
  try {
    const { minFreeBytes } = config;
    const imported = await importInto(checkpointsDir(config), { ...archive, minFreeBytes });
    await shareWithSidecar(config, imported.path);
    return imported;
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'EACCES' || error.code === 'EPERM')) {
      throw new KybernateError(
        'InvalidInput',
        `cannot write below ${config.stateDir}: ${error.message}; run it as root`,
        {
          cause: error,
        },
      );
    }
    throw error;
  }
}

/** As a commit and a fetch do: the sidecar sends it to the store, should somebody ask for that. */
async function shareWithSidecar({ group }: CliConfig, path: string): Promise<void> {
  const { idOf } = await import('../../workers/accounts.ts');
  const groupId = idOf('group', group);
  if (groupId !== undefined) {
    const { shareTree } = await import('../../engine/sharing.ts');
    await shareTree(path, groupId);
  }
}

type StoredImport = Omit<AnyImported, 'path'> & { readonly remote: string };

/** Crash: a directory `kybernate-import-*` below TMPDIR; in the store nothing, or the checkpoint. */
async function toStore(config: CliConfig, url: string, archive: Archive): Promise<StoredImport> {
  const { uploadCheckpoint } = await import('../../store/upload.ts');
  const { publishManifest } = await import('../../store/publish.ts');
  const { localCatalog } = await import('../../store/local-catalog.ts');
  const work = await mkdtemp(join(tmpdir(), 'kybernate-import-'));
  try {
    const fill = async (backend: Backend): Promise<StoredImport> => {
      const { path: dir, ...imported } = await importInto(work, archive);
      const { checkpointId } = imported;
      const manifest = await localCatalog(work).manifest(checkpointId);
      const upload = { checkpointId, dir, backend, op: archive.op, ledgerPath: join(work, 'upload.ledger') };
      await uploadCheckpoint({ ...upload, manifest });
      const { remote, created } = await publishManifest(upload);
      return { ...imported, created, remote };
    };
    return await withStore(config, url, fill, 'write');
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
