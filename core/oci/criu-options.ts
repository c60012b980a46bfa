/*
 * One table of CRIU's options as each program spells them: the only place that maps. A checkpoint records the options of
 * its dump by our names, and the restore finds in the same row what it has to pass.
 */
import { assertNever } from '../errors.ts';

/** Where a value for an option can be put. An absent field: that program has no way to set it. */
export interface CriuOptionRow {
  readonly type: 'flag' | 'path' | 'text' | 'list';
  /** what happens when nothing is said */
  readonly default: string;
  readonly use: 'dump' | 'restore' | 'both';
  readonly runc?: string;
  /** `inverted`: true there means false here */
  readonly containerd?: { readonly field: string; readonly inverted?: true };
  readonly podman?: string;
  /** word in a CRIU configuration file, without dashes */
  readonly criu?: string;
  /** field of CRIU's RPC where its command line has none */
  readonly rpc?: string;
  readonly meaning: string;
}

/*
 * Sources: `runc checkpoint --help` and `runc restore --help` (1.5.2), containerd api/types/runc/options/oci.proto,
 * podman-container-checkpoint(1), criu(8) and images/rpc.proto (4.2).
 */
export const CRIU_OPTIONS = {
  imageDir: {
    type: 'path',
    default: 'none',
    use: 'both',
    runc: '--image-path',
    containerd: { field: 'image_path' },
    criu: 'images-dir',
    meaning: 'directory of the images',
  },
  workDir: {
    type: 'path',
    default: 'the image directory',
    use: 'both',
    runc: '--work-path',
    containerd: { field: 'work_path' },
    criu: 'work-dir',
    meaning: 'directory of logs and statistics',
  },
  parentDir: {
    type: 'path',
    default: 'none',
    use: 'dump',
    runc: '--parent-path',
    containerd: { field: 'parent_path' },
    podman: '--with-previous',
    criu: 'prev-images-dir',
    meaning: 'images of an earlier pre-dump',
  },
  leaveRunning: {
    type: 'flag',
    default: 'off',
    use: 'dump',
    runc: '--leave-running',
    containerd: { field: 'exit', inverted: true },
    podman: '--leave-running',
    criu: 'leave-running',
    meaning: 'the source runs on after the dump',
  },
  tcpEstablished: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--tcp-established',
    containerd: { field: 'open_tcp' },
    podman: '--tcp-established',
    criu: 'tcp-established',
    meaning: 'established TCP connections are dumped and brought back',
  },
  tcpSkipInFlight: {
    type: 'flag',
    default: 'off',
    use: 'dump',
    runc: '--tcp-skip-in-flight',
    criu: 'skip-in-flight',
    meaning: 'half-open incoming connections are left out',
  },
  tcpClose: {
    type: 'flag',
    default: 'off',
    use: 'restore',
    podman: '--tcp-close',
    criu: 'tcp-close',
    meaning: 'connections of the image come back closed; runc has no flag for it, only the configuration file',
  },
  externalUnixSockets: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--ext-unix-sk',
    containerd: { field: 'external_unix_sockets' },
    rpc: 'ext_unix_sk',
    meaning: 'unix sockets whose peer lies outside the container',
  },
  terminal: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--shell-job',
    containerd: { field: 'terminal' },
    criu: 'shell-job',
    meaning: 'session or terminal led from outside the tree',
  },
  fileLocks: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--file-locks',
    containerd: { field: 'file_locks' },
    podman: '--file-locks',
    criu: 'file-locks',
    meaning: 'file locks held by the tree',
  },
  emptyNamespaces: {
    type: 'list',
    default: 'none',
    use: 'both',
    runc: '--empty-ns',
    containerd: { field: 'empty_namespaces' },
    rpc: 'empty_ns',
    meaning: 'namespaces made without their content',
  },
  manageCgroups: {
    type: 'text',
    default: 'soft',
    use: 'both',
    runc: '--manage-cgroups-mode',
    containerd: { field: 'cgroups_mode' },
    criu: 'manage-cgroups',
    rpc: 'manage_cgroups_mode',
    meaning: 'what CRIU does with cgroups; the stock shim does not pass it on',
  },
  linkRemap: {
    type: 'flag',
    default: 'off',
    use: 'dump',
    runc: '--link-remap',
    criu: 'link-remap',
    meaning: 'deleted files that still have a name elsewhere are linked back for the dump',
  },
  ghostLimit: {
    type: 'text',
    default: '1 MiB',
    use: 'dump',
    criu: 'ghost-limit',
    meaning: 'largest deleted file, still open, that is put into the images',
  },
  irmapScanPath: {
    type: 'list',
    default: 'none',
    use: 'dump',
    criu: 'irmap-scan-path',
    meaning: 'where to look for the names of watched files',
  },
  networkLock: {
    type: 'text',
    default: 'iptables',
    use: 'dump',
    criu: 'network-lock',
    meaning: 'how packets are kept out while connections are dumped: iptables, nftables, skip',
  },
  pluginDir: {
    type: 'path',
    default: 'where CRIU was installed',
    use: 'both',
    criu: 'libdir',
    meaning: 'where plugins are loaded from; one without any turns all of them off, it must exist',
  },
  lazyPages: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--lazy-pages',
    criu: 'lazy-pages',
    meaning: 'memory is served by a page server after the processes run',
  },
  preDump: {
    type: 'flag',
    default: 'off',
    use: 'dump',
    runc: '--pre-dump',
    podman: '--pre-checkpoint',
    criu: 'pre-dump',
    meaning: 'memory only, the source runs on',
  },
  autoDedup: {
    type: 'flag',
    default: 'off',
    use: 'both',
    runc: '--auto-dedup',
    criu: 'auto-dedup',
    meaning: 'pages are punched out of the images as they are used; never on our read-only images',
  },
} as const satisfies Record<string, CriuOptionRow>;

/**
 * A directory without plugins that every machine has: CRIU refuses one that does not exist. CRIU's own cuda plugin would
 * save and restore GPU state beside us; images that do not name it (inventory.img, since 4.1) restore without it.
 */
export const NO_PLUGINS = '/proc/self';

export type CriuOption = keyof typeof CRIU_OPTIONS;

const ROWS: ReadonlyArray<readonly [CriuOption, CriuOptionRow]> = Object.entries(CRIU_OPTIONS) as never;

/** Our name for an option in any spelling of the table (`tcpEstablished`, `--tcp-established`, `tcp-established`). */
export function criuOptionNamed(spelling: string): CriuOption | undefined {
  const [word = ''] = spelling.split(/[\s=]/, 1);
  const bare = word.replace(/^--/, '');
  return ROWS.find(([name, row]) => name === bare || row.criu === bare || row.runc?.slice(2) === bare)?.[0];
}

/** Options of CRIU's RPC as native/criu/rpc/messages.ts spells them. */
export interface CriuRpcOptions {
  readonly tcpEstablished?: boolean;
  readonly tcpClose?: boolean;
  readonly tcpSkipInFlight?: boolean;
  readonly extUnixSk?: boolean;
  readonly shellJob?: boolean;
  readonly fileLocks?: boolean;
  readonly manageCgroups?: boolean;
  readonly manageCgroupsMode?: 'IGNORE';
  readonly ghostLimit?: number;
  readonly irmapScanPaths?: readonly string[];
  readonly networkLock?: 'NFTABLES' | 'SKIP';
}

/**
 * Chosen options (`tcp-established`, `ghost-limit 4096`) for a call by RPC.
 * @param use those of the other use are left out
 */
export function criuRpcOptions(chosen: readonly string[], use: 'dump' | 'restore'): CriuRpcOptions {
  return chosen.reduce<CriuRpcOptions>((options, spelling) => {
    const name = criuOptionNamed(spelling);
    const value = spelling.slice(spelling.indexOf(' ') + 1);
    return name === undefined || ![use, 'both'].includes(CRIU_OPTIONS[name].use)
      ? options
      : { ...options, ...rpcOption(name, value, options) };
  }, {});
}

function rpcOption(name: CriuOption, value: string, before: CriuRpcOptions): CriuRpcOptions {
  switch (name) {
    case 'tcpEstablished':
    case 'tcpClose':
    case 'tcpSkipInFlight':
    case 'fileLocks':
      return { [name]: true };
    case 'externalUnixSockets':
      return { extUnixSk: true };
    case 'terminal':
      return { shellJob: true };
    case 'manageCgroups':
      return { manageCgroups: true, manageCgroupsMode: 'IGNORE' };
    case 'ghostLimit':
      return { ghostLimit: Number(value) };
    case 'irmapScanPath':
      return { irmapScanPaths: [...(before.irmapScanPaths ?? []), value] };
    case 'networkLock':
      return { networkLock: value === 'nftables' ? 'NFTABLES' : 'SKIP' };
    case 'imageDir':
    case 'workDir':
    case 'parentDir':
    case 'leaveRunning':
    case 'emptyNamespaces':
    case 'linkRemap':
    case 'pluginDir':
    case 'lazyPages':
    case 'preDump':
    case 'autoDedup':
      // Said by who calls, or not used by RPC.
      return {};
    default:
      return assertNever(name);
  }
}
