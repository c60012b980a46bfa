/* The two messages of containerd's runc shim that travel inside an Any. */
import { messageOf } from './protos.ts';
import type { AnyMessage, CheckpointTask } from './containerd.ts';

const OPTIONS = 'containerd.runc.v1.Options';
const CHECKPOINT_OPTIONS = 'containerd.runc.v1.CheckpointOptions';
/** containerd's own default when `Options.root` is empty. Source: containerd-shim-runc-v2, process.RuncRoot. */
const DEFAULT_RUNC_ROOT = '/run/containerd/runc';

export interface RuncOptions {
  readonly binaryName: string;
  /** parent of the namespace's directory; empty means containerd's default */
  readonly root: string;
  readonly systemdCgroup: boolean;
  readonly criuImagePath: string;
  readonly criuWorkPath: string;
}

/**
 * Options of `io.containerd.runc.*` runtimes. Undefined for another message, for example CRI's
 * `runtimeoptions.v1.Options`, whose TOML body only containerd's own shim start understands.
 */
export function decodeRuncOptions(options: AnyMessage | undefined): RuncOptions | undefined {
  if (options === undefined || options.typeUrl !== OPTIONS) {
    return undefined;
  }
  return messageOf(OPTIONS).deserialize(Buffer.from(options.value)) as RuncOptions;
}

/** For `createContainer` (runtime) and `createTask`; with `criuImagePath` the stock shim restores instead of creating. */
export function encodeRuncOptions(options: Partial<RuncOptions>): AnyMessage {
  return { typeUrl: OPTIONS, value: messageOf(OPTIONS).serialize(options) };
}

/** runc's `--root` for containers of this namespace. */
export function runcRoot(namespace: string, options: AnyMessage | undefined): string {
  const root = decodeRuncOptions(options)?.root ?? '';
  return `${root === '' ? DEFAULT_RUNC_ROOT : root}/${namespace}`;
}

export function encodeCheckpointOptions(options: CheckpointTask): AnyMessage {
  const message = {
    exit: options.exit,
    openTcp: options.openTcp,
    externalUnixSockets: options.externalUnixSockets,
    terminal: options.terminal,
    fileLocks: options.fileLocks,
    imagePath: options.imagePath,
    workPath: options.workPath,
  };
  return { typeUrl: CHECKPOINT_OPTIONS, value: messageOf(CHECKPOINT_OPTIONS).serialize(message) };
}
