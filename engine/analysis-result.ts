/* What an analysis is asked, and what it finds; plain JSON, since it travels to the runner in plan.json. */
import type { HugePageUse } from '../native/proc/huge-pages.ts';
import type { Endpoint } from '../native/proc/sockets.ts';
import type { HookMount } from './gpu/hook-mounts.ts';
import type { ChosenVolume } from './pod-volumes.ts';

export interface AnalysisRequest {
  readonly engine: 'runc' | 'containerd';
  readonly tcp: 'keep' | 'close';
  readonly after: 'resume' | 'hold' | 'stop';
  /** CRIU's images alone are taken, for somebody who sees to the files */
  readonly imagesOnly?: boolean;
  /** volumes whose content is wanted; absent: what the annotation of the pod says */
  readonly captureVolumes?: readonly string[];
}

export interface ChosenOption {
  /** as in CRIU's own words, with its value: `tcp-established`, `ghost-limit 4194304` */
  readonly option: string;
  readonly reason: string;
}

export interface Analysis {
  readonly options: readonly ChosenOption[];
  /** those that runc must be told: what it sends to CRIU overrules the configuration file */
  readonly runcFlags: readonly string[];
  /** lines of the file that CRIU_CONFIG_FILE names */
  readonly criuConfig: readonly string[];
  /** CRIU will make `link_remap.*` files, which the diff of the rw layer must take in the post-dump script */
  readonly linkRemap: boolean;
  /** local ports of its TCP sockets, each once */
  readonly tcpPorts: readonly number[];
  /** where it listens, and its own addresses of open connections; absent in plans of an older version */
  readonly listening?: readonly Endpoint[];
  readonly connectedAddresses?: readonly string[];
  /** memory in reserved huge pages, by the size of a page; absent in plans of an older version */
  readonly hugePages?: readonly HugePageUse[];
  /** network lock that CRIU will use */
  readonly networkLock: 'nftables' | 'skip';
  /** host pids of those that have descriptors or mappings of NVIDIA devices; what they are, the driver is asked */
  readonly gpuHolders: readonly number[];
  /** mounts of the driver that the specification does not know; absent without any */
  readonly hookMounts?: readonly HookMount[];
  /** directories from outside whose content is captured; absent without any */
  readonly volumes?: readonly ChosenVolume[];
  /** memory, rw layer, tmpfs and volumes of the tree: what the checkpoint will take, roughly, before any compression */
  readonly estimatedBytes: number;
  readonly warnings: readonly string[];
  /** why CRIU cannot dump this container, each with its fix; empty when it can */
  readonly refusals: readonly string[];
}
