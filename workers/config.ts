/* What the workers read from the environment, once, at their start. The only place that does. */
import { hostname } from 'node:os';
import { delimiter, dirname, extname, isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import { parseByteSize } from '../core/byte-size.ts';
import { wrappingKeyId } from '../core/checkpoint/encryption.ts';
import { SIGNATURE_MODES } from '../core/checkpoint/signature.ts';
import { absolutePath, nodeName } from '../core/contract/common.ts';
import { KybernateError } from '../core/errors.ts';
import { DRIVER_THREADS } from '../core/gpu/driver-threads.ts';
import { parseHookPolicies, type HookSettings } from '../core/hooks.ts';
import { parseRestoreGrants } from '../core/oci/restore-grants.ts';
import { CODECS } from '../core/pack/pack.ts';
import type { NodeSettings } from '../engine/node-deps.ts';

const storeUrl = z.string().regex(/^(file:\/\/\/|s3:\/\/[^/@]+)/, 'write file:///dir or s3://bucket[/prefix]');
/** A name, or the number of a user or group that has none. */
const account = z.string().regex(/^(?:[a-z_][a-z0-9_-]{0,31}|\d{1,10})$/, 'write a name or a number');
const byteSize = z
  .string()
  .refine((text) => (parseByteSize(text) ?? 0) > 0, 'write a number and a unit: 64GiB')
  .transform((text) => parseByteSize(text) ?? 0);
const byteSizeOrNone = z
  .string()
  .refine((text) => parseByteSize(text) !== undefined, 'write a number and a unit: 512MiB')
  .transform((text) => parseByteSize(text) ?? 0);
const hostAndPort = z.string().regex(/^[^:]+:\d+$/, 'write host:port');
const pathList = z
  .string()
  .default('')
  .transform((text) => text.split(':').filter((path) => path !== ''))
  .pipe(z.array(absolutePath));
const program = z.string().regex(/^[^\0]+$/);
const restoreGrants = z.string().transform((text, context) => {
  const grants = parseRestoreGrants(text);
  if (typeof grants === 'string') {
    context.addIssue(grants);
    return z.NEVER;
  }
  return grants;
});
const hookPolicies = z.string().transform((text, context) => {
  const policies = parseHookPolicies(text);
  if (typeof policies === 'string') {
    context.addIssue(policies);
    return z.NEVER;
  }
  return policies;
});

/** Every variable; each process reads those of its own schema below. */
export const workerEnv = z.object({
  /** name of this node, part of its task queues; the host name, in lower case, otherwise */
  KYBERNATE_NODE: nodeName.prefault(() => hostname().toLowerCase()),
  /** checkpoints of this node; survives a reboot */
  KYBERNATE_STATE_DIR: absolutePath.default('/var/lib/kybernate'),
  /** free space below the state directory that no checkpoint, fetch or import may use up; `0` for none */
  KYBERNATE_MIN_FREE_BYTES: byteSizeOrNone.prefault('512MiB'),
  /** journals, locks and sockets; must be a tmpfs */
  KYBERNATE_RUN_DIR: absolutePath.default('/run/kybernate'),
  /** where checkpoints are stored: `file:///dir` or `s3://bucket[/prefix]`; a node worker reaches it through the sidecar */
  KYBERNATE_STORE: storeUrl.optional(),
  /** S3 server other than AWS, for example `http://127.0.0.1:7070` */
  KYBERNATE_S3_ENDPOINT: z.url().optional(),
  /** region of the bucket; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or where the AWS SDK looks */
  KYBERNATE_S3_REGION: z.string().default('us-east-1'),
  /** user that a sidecar becomes when root starts it: a name of /etc/passwd, or a number */
  KYBERNATE_SIDECAR_USER: account.default('kybernate'),
  /** group that may read the files of checkpoints, and the sidecar's own: a name of /etc/group, or a number */
  KYBERNATE_GROUP: account.default('kybernate'),
  /** ledgers, transfers and caches of the sidecar; `<state directory>/sidecar` otherwise */
  KYBERNATE_SIDECAR_DIR: absolutePath.optional(),
  /** directories, separated by colons, below which callers of the sidecar may name some; beside its own `downloads` */
  KYBERNATE_SIDECAR_ROOTS: pathList,
  /** how chunks are compressed that shrink: `zstd` (level 1), `lz4` (larger, quicker), or `none` */
  KYBERNATE_CODEC: z.enum(CODECS).default('zstd'),
  /** JSON file with limits of transfers, read again when it changes; readable by the sidecar's user; none otherwise */
  KYBERNATE_LIMITS_FILE: absolutePath.optional(),
  /** tier `ram`: a directory of the sidecar on a tmpfs; none otherwise */
  KYBERNATE_TIER_RAM_DIR: absolutePath.optional(),
  /** how much of it the tier `ram` may fill, for example `32GiB` */
  KYBERNATE_TIER_RAM_BYTES: byteSize.optional(),
  /** tier `nvme`: a directory of the sidecar on a fast disk; none otherwise */
  KYBERNATE_TIER_NVME_DIR: absolutePath.optional(),
  /** how much of it the tier `nvme` may fill, for example `500GiB` */
  KYBERNATE_TIER_NVME_BYTES: byteSize.optional(),
  /** sidecars of other nodes that are asked for packs before the store: `node=http://host:port`, separated by commas */
  KYBERNATE_PEERS: z
    .string()
    .default('')
    .transform((text) => text.split(',').filter((peer) => peer.trim() !== ''))
    .pipe(
      z.array(
        z
          .string()
          .trim()
          .regex(/^[a-z0-9.-]+=https?:\/\/[^/@?#]+\/?$/, 'write node=http://host:port,…'),
      ),
    ),
  /** `host:port` where the sidecar gives packs of its tiers to other nodes; nowhere otherwise */
  KYBERNATE_PEER_LISTEN: hostAndPort.optional(),
  /** file with the token that all peers share, 0600 */
  KYBERNATE_PEER_TOKEN_FILE: absolutePath.optional(),
  /** socket of containerd */
  KYBERNATE_CONTAINERD_ADDRESS: absolutePath.default('/run/containerd/containerd.sock'),
  /** socket of the Docker daemon's API */
  KYBERNATE_DOCKER_SOCKET: absolutePath.default('/var/run/docker.sock'),
  /** socket of the containerd that has Docker's containers, where it is not the node's own; a daemon that starts its own has it at `/run/docker/containerd/containerd.sock` */
  KYBERNATE_DOCKER_CONTAINERD: absolutePath.optional(),
  /** runc: a path, or a name to look up in PATH */
  KYBERNATE_RUNC: program.default('runc'),
  /** CRIU: a path, or a name to look up in PATH */
  KYBERNATE_CRIU: program.default('criu'),
  /** directory that `kybernate setup` made for criu-keeper, which keeps a container frozen when CRIU is killed; without it CRIU runs alone */
  KYBERNATE_KEEPER_DIR: absolutePath.optional(),
  /** is a process of its own armed before each freeze, which lets the workload go when worker and runner both die? Without it the next worker does. */
  KYBERNATE_GUARD: z.enum(['on', 'off']).default('on'),
  /** the driver's CUDA library: a soname or a path */
  KYBERNATE_LIBCUDA: program.default('libcuda.so.1'),
  /** the driver's management library (NVML): a soname or a path */
  KYBERNATE_LIBNVML: program.default('libnvidia-ml.so.1'),
  /** how often, in ms, a node looks for operations that nobody drives any more, and ends or undoes them */
  KYBERNATE_RECONCILE_MS: z.coerce.number().int().min(100).max(600_000).default(30_000),
  /** where Node keeps the compiled code of runners and freeze guards, which start in half the time with it; root runs what it finds there. `<state directory>/compile-cache` otherwise */
  NODE_COMPILE_CACHE: absolutePath.optional(),
  /** directories, separated by colons, below which `restore-from` may name a path */
  KYBERNATE_RESTORE_ROOTS: pathList,
  /** may a container ask for a restore by its variable RESTORE_FROM? Ids only, even then. */
  KYBERNATE_RESTORE_FROM_ENV: z.enum(['allow', 'deny']).default('deny'),
  /** whose checkpoints pods may be restored from, beside their own namespace's: `staging=production,*=golden`; `-` is a checkpoint of no pod */
  KYBERNATE_RESTORE_GRANTS: restoreGrants.prefault(''),
  /** socket of kubelet's PodResources API, which names the GPUs of a pod; one that is not there names none. `pod-resources/kubelet.sock` below KYBERNATE_KUBELET_DIR otherwise */
  KYBERNATE_POD_RESOURCES: absolutePath.optional(),
  /** kubelet's `--root-dir`, below which the emptyDir volumes of pods lie, and in `checkpoints` what its checkpoint API leaves */
  KYBERNATE_KUBELET_DIR: absolutePath.default('/var/lib/kubelet'),
  /** most that the volumes hold which one checkpoint takes along, emptyDirs and /dev/shm: they are copied while the workload stands still */
  KYBERNATE_VOLUME_LIMIT: byteSize.prefault('16GiB'),
  /** may NVIDIA_VISIBLE_DEVICES, `all` included, name the GPUs of a pod's restore? Users write it, too: kubelet's word counts otherwise */
  KYBERNATE_POD_GPUS_FROM_ENV: z.enum(['allow', 'deny']).default('deny'),
  /** hook scripts, `<directory>/<event>/*`, see [hooks.md](hooks.md); a directory that is not there holds none */
  KYBERNATE_HOOKS_DIR: absolutePath.default('/etc/kybernate/hooks.d'),
  /** longest time of each hook script in ms; then it is ended, with what it has started */
  KYBERNATE_HOOK_TIMEOUT_MS: z.coerce.number().int().min(1).max(600_000).default(10_000),
  /** what a hook script that fails does: `fail` refuses the operation, `warn` tells of it; for one event: `fail,pre-dump=warn` */
  KYBERNATE_HOOK_POLICY: hookPolicies.prefault('fail'),
  /** containerd runtime of restored containers */
  KYBERNATE_RESTORE_RUNTIME: z.string().min(1).default('io.containerd.runc.kybernate.v1'),
  /** file with the private key that signs checkpoints of this node: PEM, Ed25519, root's, 0600; unsigned otherwise */
  KYBERNATE_SIGNING_KEY: absolutePath.optional(),
  /** public key in PEM, or directory of `*.pem`, whose signatures this node trusts beside its own */
  KYBERNATE_TRUSTED_KEYS: absolutePath.optional(),
  /** what a node restores: anything, anything but forged, or only what a trusted key has signed */
  KYBERNATE_SIGNATURES: z.enum(SIGNATURE_MODES).default('accept'),
  /** file with the key-encryption key of the store: 32 bytes, or these in hexadecimal or base64; 0600 */
  KYBERNATE_ENCRYPTION_KEY_FILE: absolutePath.optional(),
  /** the same key, in hexadecimal or base64 */
  KYBERNATE_ENCRYPTION_KEY: z.string().optional(),
  /** JSON array of a program that wraps and unwraps keys, `wrap` or `unwrap` added, base64 in and out; for a key service */
  KYBERNATE_ENCRYPTION_KEY_COMMAND: z.string().optional(),
  /** name of the key behind that program */
  KYBERNATE_ENCRYPTION_KEY_ID: wrappingKeyId.optional(),
  /** directory of files with earlier key-encryption keys, which still unwrap */
  KYBERNATE_ENCRYPTION_OLD_KEYS: absolutePath.optional(),
  /** least level that is logged */
  KYBERNATE_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info'),
  /** `host:port` where Prometheus reads [metrics](metrics.md), one for each process; port 0: any; none otherwise */
  KYBERNATE_METRICS_ADDRESS: hostAndPort.optional(),
  /** `host:port` where the operator says whether it lives (`/healthz`) and can act (`/readyz`); nowhere otherwise */
  KYBERNATE_HEALTH_ADDRESS: hostAndPort.optional(),
  /** namespace of the operator's lease: its own */
  KYBERNATE_OPERATOR_NAMESPACE: z.string().min(1).default('kybernate'),
  /** the one namespace whose `Checkpoint` and `Restore` objects the operator handles; those of all otherwise */
  KYBERNATE_WATCH_NAMESPACE: z.string().min(1).optional(),
  /** programs are looked up there */
  PATH: z.string().default('/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'),
});
export type WorkerConfig = z.output<typeof workerEnv>;

const OF_THE_STORE = { KYBERNATE_STORE: true, KYBERNATE_S3_ENDPOINT: true, KYBERNATE_S3_REGION: true } as const;
const OF_ENCRYPTION = {
  KYBERNATE_ENCRYPTION_KEY_FILE: true,
  KYBERNATE_ENCRYPTION_KEY: true,
  KYBERNATE_ENCRYPTION_KEY_COMMAND: true,
  KYBERNATE_ENCRYPTION_KEY_ID: true,
  KYBERNATE_ENCRYPTION_OLD_KEYS: true,
} as const;
export type EncryptionConfig = Pick<WorkerConfig, keyof typeof OF_ENCRYPTION>;
const OF_THE_SIDECAR = {
  KYBERNATE_SIDECAR_USER: true,
  KYBERNATE_SIDECAR_DIR: true,
  KYBERNATE_SIDECAR_ROOTS: true,
  KYBERNATE_CODEC: true,
  KYBERNATE_LIMITS_FILE: true,
  KYBERNATE_TIER_RAM_DIR: true,
  KYBERNATE_TIER_RAM_BYTES: true,
  KYBERNATE_TIER_NVME_DIR: true,
  KYBERNATE_TIER_NVME_BYTES: true,
  KYBERNATE_PEERS: true,
  KYBERNATE_PEER_LISTEN: true,
  KYBERNATE_PEER_TOKEN_FILE: true,
} as const;

const hookEnv = workerEnv.pick({
  KYBERNATE_HOOKS_DIR: true,
  KYBERNATE_HOOK_TIMEOUT_MS: true,
  KYBERNATE_HOOK_POLICY: true,
});

/** The privileged side knows no store: what it is not told it cannot leak. */
export const nodeEnv = workerEnv.omit({ ...OF_THE_STORE, ...OF_THE_SIDECAR });
export type NodeConfig = z.output<typeof nodeEnv>;

const OF_EVERY_PROCESS = { KYBERNATE_NODE: true, KYBERNATE_LOG_LEVEL: true, KYBERNATE_METRICS_ADDRESS: true } as const;

export const controlEnv = workerEnv.pick({ ...OF_EVERY_PROCESS, ...OF_THE_STORE, ...OF_ENCRYPTION });
export type ControlConfig = z.output<typeof controlEnv>;

export const operatorEnv = workerEnv.pick({
  ...OF_EVERY_PROCESS,
  KYBERNATE_HEALTH_ADDRESS: true,
  KYBERNATE_OPERATOR_NAMESPACE: true,
  KYBERNATE_WATCH_NAMESPACE: true,
});

export const sidecarEnv = workerEnv
  .pick({
    ...OF_EVERY_PROCESS,
    ...OF_THE_STORE,
    ...OF_THE_SIDECAR,
    ...OF_ENCRYPTION,
    KYBERNATE_GROUP: true,
    KYBERNATE_STATE_DIR: true,
    KYBERNATE_RUN_DIR: true,
  })
  .required({ KYBERNATE_STORE: true });
export type SidecarConfig = z.output<typeof sidecarEnv>;

/** What `createLog` and `installRuntime` need. */
export type ProcessConfig = Pick<WorkerConfig, keyof typeof OF_EVERY_PROCESS>;

export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * @param schema that of the process
 * @throws InvalidInput naming every variable that is wrong, what it holds and what was expected
 */
export function readConfig<Schema extends z.ZodType>(schema: Schema, env: Environment): z.output<Schema> {
  // A variable set to nothing counts as not set.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = schema.safeParse(given);
  if (parsed.success) {
    return parsed.data;
  }
  const issues = parsed.error.issues.map((issue) => {
    const name = String(issue.path[0]);
    return `${name}: ${JSON.stringify(given[name] ?? '')} is wrong: ${issue.message}`;
  });
  throw new KybernateError('InvalidInput', issues.join('; '), { details: { issues } });
}

/** Variables of the store that a process is given which has no use for them: it holds what it should not. */
export function storeVariables(env: Environment): string[] {
  return Object.keys(env).filter((name) => Object.hasOwn(OF_THE_STORE, name) || name.startsWith('AWS_SECRET'));
}

/** For the log of a start: what counts, without keys, passwords in URLs and PATH. */
export function redacted(
  config: ProcessConfig & { readonly PATH?: string; readonly KYBERNATE_ENCRYPTION_KEY?: string | undefined },
): Record<string, unknown> {
  const { PATH: _path, KYBERNATE_ENCRYPTION_KEY: _key, ...rest } = config;
  const hide = (value: unknown): unknown =>
    typeof value === 'string' ? value.replace(/^(\w+:\/\/)[^/@]*@/, '$1***@') : value;
  return Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, hide(value)]));
}

/** Of the worker alone: runc, CRIU and whatever they start would inherit it from a runner. */
const SECRETS = ['TEMPORAL_API_KEY', 'TEMPORAL_TLS_CLIENT_KEY_DATA', 'KYBERNATE_ENCRYPTION_KEY'] as const;

/** Every checkpoint waits for the start of its runner and guard: with their code compiled already that takes half the time. */
function commandOf(role: 'runner' | 'guard', config: NodeConfig): string[] {
  const entry = fileURLToPath(new URL(`./${role}${extname(import.meta.url)}`, import.meta.url));
  // Root runs what it finds there, so it lies where only root writes.
  const { KYBERNATE_STATE_DIR: stateDir, NODE_COMPILE_CACHE: cache = join(stateDir, 'compile-cache') } = config;
  const variables = [`NODE_COMPILE_CACHE=${cache}`, `UV_THREADPOOL_SIZE=${DRIVER_THREADS}`];
  const without = SECRETS.flatMap((name) => ['-u', name]);
  return ['/usr/bin/env', ...without, ...variables, process.execPath, entry];
}

function hooksOf(config: z.output<typeof hookEnv>): HookSettings {
  return {
    dir: config.KYBERNATE_HOOKS_DIR,
    timeoutMs: config.KYBERNATE_HOOK_TIMEOUT_MS,
    policies: config.KYBERNATE_HOOK_POLICY,
  };
}

/** What a node worker of this environment would run. @throws InvalidInput naming the variable */
export function hookSettings(env: Environment): HookSettings {
  return hooksOf(readConfig(hookEnv, env));
}

export function nodeSettings(config: NodeConfig): NodeSettings {
  const { KYBERNATE_CRIU: criuPath, KYBERNATE_RUNC: runcPath, PATH } = config;
  const first = [criuPath, runcPath].filter((path) => isAbsolute(path)).map((path) => dirname(path));
  return {
    node: config.KYBERNATE_NODE,
    stateDir: config.KYBERNATE_STATE_DIR,
    runDir: config.KYBERNATE_RUN_DIR,
    minFreeBytes: config.KYBERNATE_MIN_FREE_BYTES,
    containerdAddress: config.KYBERNATE_CONTAINERD_ADDRESS,
    ...(config.KYBERNATE_DOCKER_CONTAINERD === undefined
      ? {}
      : { dockerContainerdAddress: config.KYBERNATE_DOCKER_CONTAINERD }),
    runcPath,
    criuPath,
    programPath: [...new Set([...first, ...PATH.split(delimiter)])].join(delimiter),
    ...(config.KYBERNATE_KEEPER_DIR === undefined ? {} : { keeperDir: config.KYBERNATE_KEEPER_DIR }),
    cudaLibrary: config.KYBERNATE_LIBCUDA,
    nvmlLibrary: config.KYBERNATE_LIBNVML,
    runnerCommand: commandOf('runner', config),
    ...(config.KYBERNATE_GUARD === 'on' ? { guardCommand: commandOf('guard', config) } : {}),
    restoreRoots: config.KYBERNATE_RESTORE_ROOTS,
    restoreFromEnvironment: config.KYBERNATE_RESTORE_FROM_ENV === 'allow',
    restoreGrants: config.KYBERNATE_RESTORE_GRANTS,
    podGpusFromEnvironment: config.KYBERNATE_POD_GPUS_FROM_ENV === 'allow',
    kubeletDir: config.KYBERNATE_KUBELET_DIR,
    volumeLimitBytes: config.KYBERNATE_VOLUME_LIMIT,
    hooks: hooksOf(config),
    restoreRuntime: config.KYBERNATE_RESTORE_RUNTIME,
  };
}
