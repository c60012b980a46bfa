/* `kybernate rm`: removes checkpoints from this node and from the store, never from under somebody who uses them. */
import type { Command } from 'commander';
import { KybernateError, isKybernateError } from '../../core/errors.ts';
import { parseCheckpointId } from '../../core/ids.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { checkpointsDir, openLocalCatalog, withStore } from '../all-checkpoints.ts';
import type { Cli } from '../cli.ts';
import { createCliOp } from '../cli-op.ts';
import type { CliConfig } from '../config.ts';
import { CliError, exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { formatBytes } from '../units.ts';

interface RmFlags {
  readonly local?: boolean;
  readonly store?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

interface Removed {
  readonly checkpointId: string;
  readonly local: boolean;
  readonly store: boolean;
  /** of packs that nobody else needed */
  readonly freedStoreBytes: number;
}

export function addRmCommand(program: Command, cli: Cli): void {
  const command = program
    .command('rm')
    .summary('remove checkpoints')
    .description(
      'Removes checkpoints, from this node and from the store (KYBERNATE_STORE), or only from the place that is named. ' +
        'A checkpoint that is being restored or uploaded is refused. In the store its manifest goes first, so that it ' +
        'does not exist any more; chunks that other checkpoints share stay.',
    )
    .argument('<checkpoint...>', 'checkpoint ids, as `kybernate ls` shows them')
    .option('--local', 'only the copy on this node')
    .option('--store', 'only from the store')
    .option('--force', 'also while it is restored or uploaded; a running restore from it may fail')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate rm nightly', 'everywhere'],
      ['kybernate rm --local nightly weekly', 'free disk space on this node, keep them in the store'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'CheckpointInUse',
    ]),
  });
  command.action((ids: string[], flags: RmFlags) => runRm(cli, ids, flags));
}

async function runRm(cli: Cli, ids: readonly string[], flags: RmFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  const both = flags.local === flags.store;
  const parsed = ids.map((id) => parseCheckpointId(id));
  const removed: Removed[] = [];
  const remover: Remover = {
    config,
    local: both || flags.local === true,
    force: flags.force === true,
    note: output.note,
  };
  async function removeAll(backend: Backend | undefined): Promise<void> {
    for (const id of parsed) {
      removed.push(await remove(remover, backend, id));
    }
  }
  if (flags.store === true && config.store === undefined) {
    throw new KybernateError('InvalidInput', '--store: no store is configured, set KYBERNATE_STORE');
  }
  try {
    if (config.store !== undefined && (both || flags.store === true)) {
      await withStore(config, config.store, removeAll);
    } else {
      await removeAll(undefined);
    }
  } catch (error) {
    for (const one of removed) {
      output.note(renderRemoved(one));
    }
    throw error;
  }
  output.result({ removed }, () => removed.map(renderRemoved).join('\n'));
}

interface Remover {
  readonly config: CliConfig;
  readonly local: boolean;
  readonly force: boolean;
  readonly note: (text: string) => void;
}

/** @param backend undefined: the store is left alone */
async function remove(remover: Remover, backend: Backend | undefined, checkpointId: string): Promise<Removed> {
  if (!remover.force) {
    await refuseUploading(remover, backend, checkpointId);
  }
  // The store first: when it refuses, the local copy is still there, and nothing has become less safe.
  const freed = backend === undefined ? undefined : await removeFromStore(remover, backend, checkpointId);
  const local = remover.local && (await removeHere(remover, checkpointId));
  if (!local && freed === undefined) {
    const places = [...(remover.local ? [checkpointsDir(remover.config)] : []), ...(backend ? [backend.url] : [])];
    throw new KybernateError('CheckpointNotFound', `no checkpoint ${checkpointId} in ${places.join(' nor in ')}`, {
      details: { checkpointId },
    });
  }
  return { checkpointId, local, store: freed !== undefined, freedStoreBytes: freed ?? 0 };
}

async function refuseUploading({ config }: Remover, backend: Backend | undefined, checkpointId: string): Promise<void> {
  const local = await orAbsent((await openLocalCatalog(config)).get(checkpointId));
  if (local?.uploadPending === true) {
    throw inUse(checkpointId, 'it is not in the store yet, its upload is pending');
  }
  if (backend !== undefined) {
    const { liveLeases } = await import('../../store/lease.ts');
    const leases = await liveLeases(backend, new AbortController().signal);
    const ours = leases.filter((lease) => lease.checkpointId === checkpointId);
    if (ours.length > 0) {
      const until = ours.map((lease) => `${lease.purpose} until ${lease.expiresAt}`);
      throw inUse(checkpointId, `the store has a lease on it: ${until.join(', ')}`);
    }
  }
}

function inUse(checkpointId: string, why: string): CliError {
  return new CliError('CheckpointInUse', `checkpoint ${checkpointId} was not removed: ${why}`, {
    details: { checkpointId },
  });
}

/** @returns bytes that became free; undefined when the store has no such checkpoint */
async function removeFromStore(remover: Remover, backend: Backend, checkpointId: string): Promise<number | undefined> {
  const { removeCheckpoint } = await import('../../store/remove.ts');
  const removed = await orAbsent(removeCheckpoint(backend, checkpointId, createCliOp(remover.note)));
  return removed?.freedBytes;
}

async function removeHere({ config, force }: Remover, checkpointId: string): Promise<boolean> {
  const { removeLocal } = await import('../remove-local.ts');
  const { restoresUsing } = await import('../../engine/restore-operation.ts');
  const { stateDir, runDir } = config;
  const catalog = await openLocalCatalog(config);
  const done = await orAbsent(
    removeLocal({
      catalog,
      checkpointsDir: checkpointsDir(config),
      checkpointId,
      users: () => (force ? [] : restoresUsing({ stateDir, runDir }, checkpointId)),
    }).then(() => true),
  );
  return done === true;
}

async function orAbsent<Found>(promise: Promise<Found>): Promise<Found | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return undefined;
    }
    throw error;
  }
}

function renderRemoved(removed: Removed): string {
  const places = [...(removed.local ? ['from this node'] : []), ...(removed.store ? ['from the store'] : [])];
  const freed = removed.store ? `, ${formatBytes(removed.freedStoreBytes)} freed there` : '';
  return `removed ${removed.checkpointId} ${places.join(' and ')}${freed}`;
}
