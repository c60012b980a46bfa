/* Options of an import that are about archives of other engines: where they go, and how much of them is taken. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import type { AnyImport } from '../store/archives/any-archive.ts';
import { parseByteSize } from '../core/byte-size.ts';
import { countArgument } from './options.ts';

export interface ArchiveFlags {
  readonly id?: string;
  readonly namespace: string;
  readonly missingMounts: 'keep' | 'empty';
  readonly maxBytes?: number;
  readonly maxFiles?: number;
  readonly maxRatio?: number;
  readonly allowDevices?: boolean;
}

export function addArchiveOptions(command: Command): void {
  command
    .option(
      '--id <checkpoint>',
      'id of the checkpoint, for an archive of another engine (default: derived from it); one of ours keeps its own',
    )
    .option('-n, --namespace <name>', 'containerd namespace that it is restored into by default', 'default')
    .addOption(
      new Option('--missing-mounts <what>', 'mounts whose source is not on this node: kept as they are, or empty')
        .choices(['keep', 'empty'])
        .default('keep'),
    )
    .addOption(
      new Option('--max-bytes <size>', 'most that an archive may unpack to (default: 1TiB)').argParser(sizeArgument),
    )
    .addOption(new Option('--max-files <n>', 'most files of an archive (default: 500000)').argParser(countArgument))
    .addOption(new Option('--max-ratio <n>', 'most bytes for one packed byte (default: 1000)').argParser(countArgument))
    .option('--allow-devices', 'take device nodes in its layer');
}

function sizeArgument(text: string): number {
  const bytes = parseByteSize(text);
  if (bytes === undefined || bytes < 1) {
    throw new InvalidArgumentError('Give a size: 500MB, 64GiB.');
  }
  return bytes;
}

/** @param onNode its files and mounts are looked at here; false where a store takes it */
export async function foreignImport(flags: ArchiveFlags, onNode: boolean): Promise<AnyImport['foreign']> {
  const { DEFAULT_LIMITS } = await import('../store/archives/limits.ts');
  const { sourceKind } = await import('../store/archives/source-kind.ts');
  const { parseCheckpointId } = await import('../core/ids.ts');
  const { maxBytes, maxFiles, maxRatio, allowDevices } = flags;
  return {
    limits: {
      maxBytes: maxBytes ?? DEFAULT_LIMITS.maxBytes,
      maxFiles: maxFiles ?? DEFAULT_LIMITS.maxFiles,
      maxRatio: maxRatio ?? DEFAULT_LIMITS.maxRatio,
      allowDevices: allowDevices ?? DEFAULT_LIMITS.allowDevices,
    },
    ...(flags.id === undefined ? {} : { checkpointId: parseCheckpointId(flags.id) }),
    namespace: flags.namespace,
    missingMounts: flags.missingMounts,
    ...(onNode ? { sourceKind } : {}),
  };
}
