/* `kybernate keys`: makes keys, shows those of an encrypted store, and wraps them by another key-encryption key. */
import type { Command } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { Rotated, StoredKey } from '../../store/crypto/rotate.ts';
import { openRing, withStore } from '../all-checkpoints.ts';
import type { Cli } from '../cli.ts';
import { createCliOp } from '../cli-op.ts';
import type { CliConfig } from '../config.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';

const STORE_HELP = 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)';

export function addKeysCommand(program: Command, cli: Cli): void {
  const group = program
    .command('keys')
    .summary('keys: generate, list, rotate')
    .description('Keys that sign checkpoints, and keys that encrypt a store. See docs/encryption.md.')
    .helpCommand(false);
  addGenerateCommand(group, cli);
  addListCommand(group, cli);
  addRotateCommand(group, cli);
}

interface GenerateFlags {
  readonly out: string;
  readonly public?: string;
  readonly json?: boolean;
}

function addGenerateCommand(group: Command, cli: Cli): void {
  const command = group
    .command('generate')
    .summary('make a key in a file')
    .description(
      'Makes a key in a new file of mode 0600. `signing`: an Ed25519 key pair for KYBERNATE_SIGNING_KEY; its public key, ' +
        'for KYBERNATE_TRUSTED_KEYS of other nodes, goes to a second file. `encryption`: a key-encryption key for ' +
        'KYBERNATE_ENCRYPTION_KEY_FILE. Who loses it loses the store: keep a copy elsewhere.',
    )
    .argument('<kind>', 'signing or encryption')
    .requiredOption('--out <file>', 'where the secret key goes; must not exist')
    .option('--public <file>', 'signing: where the public key goes (default: <out>.pub.pem)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate keys generate signing --out /etc/kybernate/signing.pem', 'once a node, or once for all nodes'],
      ['kybernate keys generate encryption --out /etc/kybernate/store.key', 'once a store'],
    ],
    exitCodes: exitCodesHelp(['InvalidInput']),
  });
  command.action(async (kind: string, flags: GenerateFlags) => {
    const output = createOutput(cli.streams, flags);
    const { generateEncryptionKey, generateSigningKey } = await import('../../store/crypto/generate.ts');
    if (kind === 'encryption') {
      const keyId = await generateEncryptionKey(flags.out);
      output.result({ kind, keyId, secret: flags.out }, () =>
        renderPairs([
          ['key', keyId],
          ['secret', flags.out],
        ]),
      );
    } else if (kind === 'signing') {
      const open = flags.public ?? `${flags.out}.pub.pem`;
      const keyId = await generateSigningKey(flags.out, open);
      output.result({ kind, keyId, secret: flags.out, public: open }, () =>
        renderPairs([
          ['key', keyId],
          ['secret', flags.out],
          ['public', open],
        ]),
      );
    } else {
      throw new KybernateError('InvalidInput', `${JSON.stringify(kind)}: give signing or encryption`);
    }
  });
}

interface StoreFlags {
  readonly store?: string;
  readonly json?: boolean;
}

function storeOf(config: CliConfig, flags: StoreFlags): string {
  const url = flags.store ?? config.store;
  if (url === undefined) {
    throw new KybernateError('InvalidInput', 'no store is configured: set KYBERNATE_STORE or give --store');
  }
  return url;
}

function addListCommand(group: Command, cli: Cli): void {
  const command = group
    .command('list')
    .summary('show the keys of a store')
    .description(
      'Shows every key in the store, never its bytes: what it is for, and which key-encryption keys unwrap it. Needs no ' +
        'key itself.',
    )
    .option('--store <url>', STORE_HELP)
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [['kybernate keys list', 'which key-encryption keys are still in use']],
    exitCodes: exitCodesHelp(['InvalidInput', 'CheckpointCorrupt', 'StorageUnavailable', 'StorageDenied']),
  });
  command.action(async (flags: StoreFlags) => {
    const output = createOutput(cli.streams, flags);
    const config = cli.config();
    const { listKeys } = await import('../../store/crypto/rotate.ts');
    const keys = await withStore(config, storeOf(config, flags), (backend) =>
      listKeys(backend, new AbortController().signal),
    );
    output.result({ keys }, () => (keys.length === 0 ? 'no keys: nothing here is encrypted' : renderKeys(keys)));
  });
}

function renderKeys(keys: readonly StoredKey[]): string {
  return renderTable(keys, [
    { title: 'KEY', value: (row) => row.id },
    { title: 'PURPOSE', value: (row) => (row.inUse ? `${row.purpose}, of writers` : row.purpose) },
    { title: 'WRAPPED BY', value: (row) => row.wrappedBy.join(', ') },
  ]);
}

interface RotateFlags extends StoreFlags {
  readonly retire?: boolean;
}

function addRotateCommand(group: Command, cli: Cli): void {
  const command = group
    .command('rotate')
    .summary('wrap the keys of a store by the current key-encryption key')
    .description(
      'Adds to every key of the store a copy that the current key-encryption key unwraps; the old key is found in ' +
        'KYBERNATE_ENCRYPTION_OLD_KEYS. No checkpoint is rewritten. May be stopped and called again at any time. With ' +
        '--retire the copies under all other keys go, of each key after its new copy was read back: call it when every ' +
        'process has the new key.',
    )
    .option('--retire', 'remove the copies that other key-encryption keys unwrap')
    .option('--store <url>', STORE_HELP)
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate keys rotate', 'after the new key was given to every process, the old one beside it'],
      ['kybernate keys rotate --retire', 'when all of them use the new one: the old one opens nothing any more'],
    ],
    exitCodes: exitCodesHelp([
      'InvalidInput',
      'KeyUnavailable',
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
    ]),
  });
  command.action(async (flags: RotateFlags) => {
    const output = createOutput(cli.streams, flags);
    const config = cli.config();
    const url = storeOf(config, flags);
    const ring = await openRing(config);
    if (ring === undefined) {
      throw new KybernateError(
        'InvalidInput',
        'no key-encryption key is configured: set KYBERNATE_ENCRYPTION_KEY_FILE',
      );
    }
    const { rotateKeys } = await import('../../store/crypto/rotate.ts');
    const rotated = await withStore(config, url, (backend) =>
      rotateKeys(backend, ring, { retire: flags.retire === true }, createCliOp(output.note)),
    );
    if (rotated.locked.length > 0) {
      throw lockedKeys(url, rotated);
    }
    output.result({ ...rotated, current: ring.current.id }, () => renderRotated(rotated, ring.current.id));
  });
}

function lockedKeys(url: string, { keys, added, locked }: Rotated): KybernateError {
  return new KybernateError(
    'KeyUnavailable',
    `${locked.length} of ${keys} keys of ${url} are wrapped by none of our keys and stay as they are (${added} were ` +
      `wrapped anew): ${locked.slice(0, 10).join(', ')}; \`kybernate keys list\` shows which key each of them needs`,
    { details: { locked: locked.slice(0, 100), added } },
  );
}

function renderRotated({ keys, added, removed }: Rotated, current: string): string {
  const gone = removed === 0 ? '' : `; ${removed} other copies removed`;
  return `${keys} keys, all unwrapped by ${current}: ${added} were added${gone}`;
}
