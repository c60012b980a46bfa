/*
 * What the CLI reads from the environment. The connection to Temporal is read by its own package (TEMPORAL_* and the
 * file temporal.toml); the settings of the workers are read by workers/config.ts.
 */
import { hostname } from 'node:os';
import type { SignatureMode } from '../core/checkpoint/signature.ts';
import { parseByteSize } from '../core/byte-size.ts';
import { KybernateError } from '../core/errors.ts';
import { parseNodeName } from '../core/ids.ts';
import type { KeyRingSettings } from '../store/crypto/key-ring.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface CliConfig {
  /** KYBERNATE_NODE: the node that commands mean when they name none; the host name, in lower case, otherwise */
  readonly node: string;
  /** KYBERNATE_STATE_DIR: where `ls`, `inspect` and `rm` look for the checkpoints of this node */
  readonly stateDir: string;
  /** KYBERNATE_MIN_FREE_BYTES: free space below the state directory that an import does not use up */
  readonly minFreeBytes: number;
  /** KYBERNATE_RUN_DIR */
  readonly runDir: string;
  /** KYBERNATE_STORE: `file:///dir` or `s3://bucket[/prefix]` */
  readonly store: string | undefined;
  /** KYBERNATE_S3_ENDPOINT */
  readonly s3Endpoint: string | undefined;
  /** KYBERNATE_S3_REGION */
  readonly s3Region: string;
  /** KYBERNATE_ENCRYPTION_*: the keys of an encrypted store */
  readonly encryption: KeyRingSettings;
  /** KYBERNATE_GROUP: may read the files of checkpoints */
  readonly group: string;
  /** KYBERNATE_SIGNATURES: what `import` takes */
  readonly signatures: SignatureMode;
  /** KYBERNATE_TRUSTED_KEYS: public key in PEM, or directory of such files */
  readonly trustedKeys: string | undefined;
  /** KYBERNATE_UI: address of the Temporal Web UI, for the links that are printed; no link without it */
  readonly uiUrl: string | undefined;
}

/** @throws InvalidInput naming the variable */
export function readCliConfig(env: Environment): CliConfig {
  return {
    node: readNode(env),
    stateDir: setOr(env['KYBERNATE_STATE_DIR'], '/var/lib/kybernate'),
    minFreeBytes: readMinFreeBytes(set(env['KYBERNATE_MIN_FREE_BYTES']) ?? '512MiB'),
    runDir: setOr(env['KYBERNATE_RUN_DIR'], '/run/kybernate'),
    store: set(env['KYBERNATE_STORE']),
    s3Endpoint: set(env['KYBERNATE_S3_ENDPOINT']),
    s3Region: setOr(env['KYBERNATE_S3_REGION'], 'us-east-1'),
    encryption: {
      keyFile: set(env['KYBERNATE_ENCRYPTION_KEY_FILE']),
      key: set(env['KYBERNATE_ENCRYPTION_KEY']),
      keyCommand: set(env['KYBERNATE_ENCRYPTION_KEY_COMMAND']),
      keyCommandId: set(env['KYBERNATE_ENCRYPTION_KEY_ID']),
      oldKeys: set(env['KYBERNATE_ENCRYPTION_OLD_KEYS']),
    },
    group: setOr(env['KYBERNATE_GROUP'], 'kybernate'),
    signatures: readSignatures(set(env['KYBERNATE_SIGNATURES']) ?? 'accept'),
    trustedKeys: set(env['KYBERNATE_TRUSTED_KEYS']),
    uiUrl: set(env['KYBERNATE_UI'])?.replace(/\/+$/, ''),
  };
}

function readMinFreeBytes(text: string): number {
  const bytes = parseByteSize(text);
  if (bytes === undefined) {
    const got = JSON.stringify(text);
    throw new KybernateError(
      'InvalidInput',
      `KYBERNATE_MIN_FREE_BYTES: ${got} is no size: write a number and a unit: 512MiB`,
    );
  }
  return bytes;
}

/** Written out: the schema would load zod for every command. */
const SIGNATURE_MODES = ['off', 'accept', 'required'] as const satisfies readonly SignatureMode[];

function readSignatures(text: string): SignatureMode {
  const mode = SIGNATURE_MODES.find((one) => one === text);
  if (mode === undefined) {
    const choices = SIGNATURE_MODES.join(', ');
    throw new KybernateError('InvalidInput', `KYBERNATE_SIGNATURES: ${JSON.stringify(text)} is none of ${choices}`);
  }
  return mode;
}

function readNode(env: Environment): string {
  const text = set(env['KYBERNATE_NODE']) ?? hostname().toLowerCase();
  try {
    return parseNodeName(text);
  } catch (error) {
    throw new KybernateError(
      'InvalidInput',
      `KYBERNATE_NODE (or the host name): ${JSON.stringify(text)} is no node name; give --node or set the variable`,
      { cause: error },
    );
  }
}

/** A variable set to nothing counts as not set. */
function set(value: string | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : value;
}

function setOr(value: string | undefined, fallback: string): string {
  return set(value) ?? fallback;
}
