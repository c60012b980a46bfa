/* `kybernate rm`: removes checkpoints from this node and from the store, never from under somebody who uses them. */
import type { Command } from 'commander';
import { ERRORS, KybernateError, isKybernateError } from '../../core/errors.ts';
import { parseCheckpointId } from '../../core/ids.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { checkpointsDir, listAll, openLocalCatalog, withStore } from '../all-checkpoints.ts';
import { addFilterOptions, hasFilter, matches } from '../checkpoint-filter.ts';
import type { FilterFlags } from '../checkpoint-filter.ts';
import type { Cli } from '../cli.ts';
import { createCliOp } from '../cli-op.ts';
import type { CliConfig } from '../config.ts';
import { CliError, exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import { formatBytes } from '../units.ts';

interface RmFlags extends FilterFlags {
  readonly local?: boolean;
  readonly store?: boolean;
  readonly force?: boolean;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface Removed {
  readonly checkpointId: string;
  readonly local: boolean;
  readonly store: boolean;
  /** of packs that nobody else needed */
  readonly freedStoreBytes: number;
  /** packs that others need, or may be about to: the garbage collection looks again */
  readonly keptPacks: number;
}

/** Meant by the filters, and in use. */
interface Kept {
  readonly checkpointId: string;
  readonly why: string;
}

export function addRmCommand(program: Command, cli: Cli): void {
  const command = program
    .command('rm')
    .summary('remove checkpoints')
    .description(
      'Removes checkpoints, from this node and from the store (KYBERNATE_STORE), or only from the place that is named. ' +
        'Give ids, or options that say which: these are asked about before, or need --yes. A checkpoint that is being ' +
        'restored or uploaded is refused by its id, and passed over otherwise. In the store its manifest goes first, so ' +
        'that it does not exist any more; what others share or may need stays for `kybernate gc`.',
    )
    .argument('[checkpoint...]', 'checkpoint ids, as `kybernate ls` shows them');
  addFilterOptions(command)
    .option('--yes', 'do not ask')
    .option('--dry-run', 'tell which would be removed, and remove nothing')
    .option('--local', 'only the copy on this node')
    .option('--store', 'only from the store')
    .option('--force', 'also while it is restored or uploaded; a running restore from it may fail')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate rm nightly', 'everywhere'],
      ['kybernate rm --local nightly weekly', 'free disk space on this node, keep them in the store'],
      ['kybernate rm --label team=search --older-than 30d', 'shows them and asks'],
      ['kybernate rm --container redis --older-than 7d --yes --json', 'from a script'],
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
  if (flags.store === true && config.store === undefined) {
    throw new KybernateError('InvalidInput', '--store: no store is configured, set KYBERNATE_STORE');
  }
  if (ids.length > 0 === hasFilter(flags)) {
    throw new KybernateError(
      'InvalidInput',
      'give checkpoint ids, or one of --label, --container, --node, --older-than',
    );
  }
  const remover: Remover = {
    config,
    local: both || flags.local === true,
    store: both || flags.store === true ? config.store : undefined,
    force: flags.force === true,
    named: ids.length > 0,
    note: output.note,
  };
  const wanted = remover.named ? ids.map((id) => parseCheckpointId(id)) : await select(remover, flags);
  if (flags.dryRun === true || wanted.length === 0) {
    const { free, kept } = await rehearse(remover, wanted);
    const lines = free.map((id) => `would remove ${id}`);
    output.result({ removed: [], wouldRemove: free, kept }, () =>
      wanted.length === 0 ? 'no such checkpoints' : lines.join('\n'),
    );
    return;
  }
  if (!remover.named && flags.yes !== true) {
    await confirm(cli, flags.json === true, wanted);
  }
  const removed: Removed[] = [];
  const kept: Kept[] = [];
  try {
    await removeAll(remover, wanted, { removed, kept });
  } catch (error) {
    for (const one of removed) {
      output.note(renderRemoved(one));
    }
    throw error;
  }
  output.result({ removed, kept }, () => removed.map(renderRemoved).join('\n'));
  if (removed.length === 0) {
    // All that were meant are in use: the exit code that one gets by its id.
    cli.setExitCode(ERRORS.CheckpointInUse.exitCode);
  }
}

interface Remover {
  readonly config: CliConfig;
  readonly local: boolean;
  /** undefined: the store is left alone */
  readonly store: string | undefined;
  readonly force: boolean;
  /** the checkpoints were named one by one */
  readonly named: boolean;
  readonly note: (text: string) => void;
}

/** Those that the filters mean, in the places that are meant. */
async function select({ config, local, store, note }: Remover, flags: FilterFlags): Promise<string[]> {
  const { checkpoints, problems, storeError } = await listAll(config, store);
  if (storeError !== undefined) {
    throw storeError;
  }
  problems.forEach((problem) => note(`note: ${problem}`));
  const nowMs = Date.now();
  return checkpoints
    .filter((one) => (local && one.local !== undefined) || (store !== undefined && one.remote !== undefined))
    .filter((one) => matches(flags, one, nowMs))
    .map(({ checkpointId }) => checkpointId);
}

/** @throws InvalidInput where nobody can be asked; Cancelled for any answer but yes */
async function confirm({ terminal, streams }: Cli, json: boolean, wanted: readonly string[]): Promise<void> {
  if (!terminal.interactive || json) {
    throw new KybernateError(
      'InvalidInput',
      `${wanted.length} checkpoints would be removed (${wanted.slice(0, 10).join(', ')}), and nobody can be asked: give --yes`,
    );
  }
  streams.stderr.write(`${wanted.join('\n')}\n`);
  const question = `remove ${wanted.length === 1 ? 'this checkpoint' : `these ${wanted.length} checkpoints`}? [y/N] `;
  const answer = await terminal.ask(question, new AbortController().signal);
  if (!/^y(es)?$/i.test(answer?.trim() ?? '')) {
    throw new CliError('Cancelled', 'nothing was removed');
  }
}

/** What a removal would do, with the errors that it would have; changes nothing. */
async function rehearse(
  remover: Remover,
  wanted: readonly string[],
): Promise<{ free: readonly string[]; kept: readonly Kept[] }> {
  return withStoreOf(remover, async (backend) => {
    const kept: Kept[] = [];
    const free = await withoutUsed(remover, backend, wanted, kept);
    const { isSomewhere } = await import('../../store/checkpoint-uses.ts');
    const catalog = remover.local ? await openLocalCatalog(remover.config) : undefined;
    for (const checkpointId of remover.named ? free : []) {
      if (!(await isSomewhere(checkpointId, catalog, backend))) {
        throw notFound(remover, backend, checkpointId);
      }
    }
    return { free, kept };
  });
}

async function removeAll(
  remover: Remover,
  wanted: readonly string[],
  { removed, kept }: { readonly removed: Removed[]; readonly kept: Kept[] },
): Promise<void> {
  await withStoreOf(remover, async (backend) => {
    const free = await withoutUsed(remover, backend, wanted, kept);
    // The store first: when it refuses, the local copies are still there, and nothing has become less safe.
    const stored = backend === undefined ? free.map(() => undefined) : await removeFromStore(remover, backend, free);
    for (const [index, checkpointId] of free.entries()) {
      const local = remover.local && (await removeHere(remover, checkpointId));
      const inStore = stored[index];
      if (!local && inStore === undefined) {
        throw notFound(remover, backend, checkpointId);
      }
      const { freedBytes = 0, keptPacks = 0 } = inStore ?? {};
      removed.push({ checkpointId, local, store: inStore !== undefined, freedStoreBytes: freedBytes, keptPacks });
    }
  });
}

function withStoreOf<Result>(
  { config, store }: Remover,
  use: (backend: Backend | undefined) => Promise<Result>,
): Promise<Result> {
  return store === undefined ? use(undefined) : withStore(config, store, use);
}

function notFound({ config, local }: Remover, backend: Backend | undefined, checkpointId: string): KybernateError {
  const places = [...(local ? [checkpointsDir(config)] : []), ...(backend ? [backend.url] : [])];
  return new KybernateError('CheckpointNotFound', `no checkpoint ${checkpointId} in ${places.join(' nor in ')}`, {
    details: { checkpointId },
  });
}

/**
 * @param kept gets those that are passed over
 * @throws CheckpointInUse for one that was named
 */
async function withoutUsed(
  remover: Remover,
  backend: Backend | undefined,
  wanted: readonly string[],
  kept: Kept[],
): Promise<readonly string[]> {
  const { config, named, note } = remover;
  if (remover.force) {
    return wanted;
  }
  const { refuseUsed, usesOf } = await import('../../store/checkpoint-uses.ts');
  const { restoresUsing } = await import('../../engine/restore-operation.ts');
  const catalog = await openLocalCatalog(config);
  const restores = (id: string): readonly string[] => restoresUsing(config, id);
  const uses = await usesOf({ catalog, backend, ...(remover.local ? { restores } : {}) });
  const free: string[] = [];
  for (const checkpointId of wanted) {
    const use = await uses(checkpointId);
    if (use === undefined) {
      free.push(checkpointId);
    } else if (named) {
      refuseUsed(checkpointId, use);
    } else {
      kept.push({ checkpointId, why: use.why });
      note(`note: ${checkpointId} stays: ${use.why}; ${use.remedy}`);
    }
  }
  return free;
}

/** By place in `ids`; undefined where the store has no such checkpoint. */
async function removeFromStore(
  { note }: Remover,
  backend: Backend,
  ids: readonly string[],
): Promise<ReadonlyArray<{ readonly freedBytes: number; readonly keptPacks: number } | undefined>> {
  const { removeCheckpoints } = await import('../../store/remove.ts');
  return removeCheckpoints(backend, ids, createCliOp(note));
}

async function removeHere({ config, force }: Remover, checkpointId: string): Promise<boolean> {
  const { removeLocal } = await import('../../store/remove-local.ts');
  const { restoresUsing } = await import('../../engine/restore-operation.ts');
  const catalog = await openLocalCatalog(config);
  try {
    await removeLocal({ catalog, checkpointId, users: () => (force ? [] : restoresUsing(config, checkpointId)) });
    return true;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return false;
    }
    throw error;
  }
}

function renderRemoved(removed: Removed): string {
  const places = [...(removed.local ? ['from this node'] : []), ...(removed.store ? ['from the store'] : [])];
  const freed = removed.store ? `, ${formatBytes(removed.freedStoreBytes)} freed there` : '';
  const kept =
    removed.keptPacks === 0 ? '' : ` (${removed.keptPacks} packs stay: others have them too, or may need them)`;
  return `removed ${removed.checkpointId} ${places.join(' and ')}${freed}${kept}`;
}
