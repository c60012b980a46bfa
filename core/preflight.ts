/*
 * What is compared before a checkpoint or a restore touches anything, and what to do about each. The codes are public
 * API: `kybernate preflight --json` and the details of `Incompatible` carry them.
 */

export interface CheckRow {
  /** what is looked at */
  readonly checks: string;
  readonly remedy: string;
}

export const PREFLIGHT_CHECKS = {
  arch: { checks: 'machine architecture', remedy: 'choose a node of the recorded architecture' },
  'cpu-features': {
    checks: 'instruction sets of the processor, by the flags of /proc/cpuinfo',
    remedy: 'choose a node whose processor has them, or start the workload with them masked and checkpoint it again',
  },
  'cpu-vendor': {
    checks: 'vendor of the processor: libraries choose code by it once, at their start',
    remedy: 'test the workload on this pair of processors, or choose a node of the same vendor',
  },
  'cpu-state': {
    checks: 'size of the processor state that the kernel saves (XSAVE, SVE), as AT_MINSIGSTKSZ tells it',
    remedy: 'choose a node whose processor and kernel have the same extended state',
  },
  kernel: { checks: 'kernel version', remedy: 'choose a node with this kernel or a newer one' },
  criu: { checks: 'CRIU version', remedy: '`kybernate setup` installs the newest' },
  'criu-features': {
    checks: 'features of CRIU on this kernel that the checkpoint needs',
    remedy: 'build CRIU with libnftables, or use tcp: close',
  },
  programs: {
    checks: 'programs that a checkpoint or restore runs',
    remedy: 'install the package that the reason names',
  },
  hooks: {
    checks: 'hook scripts of the node: owners, permissions, interpreters',
    remedy: 'do what the reason says to the file, or take the hook away; see docs/hooks.md',
  },
  'cgroup-version': { checks: 'cgroup v1 or v2', remedy: 'choose a node with the recorded version' },
  lsm: {
    checks: 'AppArmor profile or SELinux label of the processes',
    remedy: 'load the profile, or enable the security module, on this node',
  },
  'gpu-support': { checks: 'what the GPU driver can save at all', remedy: 'see docs/support.md, GPU' },
  gpu: { checks: 'how the processes use the GPU', remedy: 'see docs/gpu.md' },
  'gpu-driver': {
    checks: 'NVIDIA driver, at least the recorded one',
    remedy: 'upgrade the driver here, or choose another node',
  },
  'gpu-devices': {
    checks: 'GPUs: number, product, memory and those that are visible',
    remedy: 'free a GPU of the recorded model, name one with --gpu, or choose another node',
  },
  'gpu-memory': {
    checks: 'free memory of GPUs that would do but for it',
    remedy: 'end what holds it or wait for it, or choose another node',
  },
  image: {
    checks: 'layers of the container image, and its digest',
    remedy: 'pull the recorded digest on this node',
  },
  snapshotter: { checks: 'snapshotter of containerd', remedy: 'configure it in containerd on this node' },
  mounts: {
    checks: 'sources of bind mounts: there, of the same kind and file system',
    remedy: 'mount the volume, or make the path, on this node',
  },
  'file-systems': {
    checks: 'file systems that the mounts need',
    remedy: 'load the kernel module of the file system',
  },
  container: {
    checks: 'the specification of the new container against that of the source',
    remedy: 'restore with the recorded terminal and namespaces',
  },
  docker: {
    checks: 'name, runtime, networks and containers that the Docker daemon needs for it',
    remedy: 'see docs/docker.md',
  },
  'open-files': {
    checks: 'files that the processes had open are there, and as long as they were',
    remedy: 'bring the file back as it was, for example by `truncate --size`; CRIU refuses another length',
  },
  terminal: {
    checks: 'the terminal of a process',
    remedy: 'restore it from a terminal: `kybernate process restore <id> --attach`',
  },
  ports: {
    checks: 'listening ports are free in the network namespace of the restore',
    remedy: 'end what listens there, or restore into another network namespace',
  },
  addresses: {
    checks: 'addresses of kept connections and of listening sockets are there',
    remedy: 'give the network namespace the address, or restore with tcp: close',
  },
  pids: {
    checks: 'pids are free, where the container shares a pid namespace',
    remedy:
      'end the processes that have them, or choose another node; in a pod, list its container first, so that it is made first',
  },
  disk: { checks: 'room on disk for the copy and the writable layer', remedy: 'free room, or choose another node' },
  memory: { checks: 'memory of the node for what comes back', remedy: 'free memory, or choose another node' },
  'memory-cgroup': {
    checks: 'memory limits above the container',
    remedy: 'raise the limit that the reason names, or end what fills it',
  },
  'huge-pages': {
    checks: 'reserved huge pages',
    remedy: 'reserve them: /sys/kernel/mm/hugepages/hugepages-<size>kB/nr_hugepages',
  },
  workload: { checks: 'what the processes hold that CRIU cannot dump', remedy: 'see docs/support.md, Workloads' },
  name: {
    checks: 'the name of the new container is free',
    remedy: 'remove the container that has it, or name another one with --name',
  },
  'liveness-probe': {
    checks: 'budgets of a checkpoint against the liveness probe that it was told of',
    remedy: 'give a shorter freezeBudgetMs or holdBudgetMs, or give the probe more time',
  },
  'container-state': { checks: 'the container runs, and has a freezer', remedy: 'start or resume the container' },
} as const satisfies Record<string, CheckRow>;

export type PreflightCode = keyof typeof PREFLIGHT_CHECKS;

/** One reason: an `error` keeps the checkpoint or restore from beginning, a `warning` does not. */
export interface Finding {
  readonly code: PreflightCode;
  readonly severity: 'error' | 'warning';
  readonly message: string;
  /** at the checkpoint; absent where nothing was, or it is not recorded */
  readonly recorded?: string;
  /** on this node, now */
  readonly here?: string;
  readonly remedy: string;
}

export interface Compared {
  readonly recorded?: string;
  readonly here?: string;
  /** instead of the remedy of the code */
  readonly remedy?: string;
}

export function problem(code: PreflightCode, message: string, compared: Compared = {}): Finding {
  return { code, severity: 'error', message, remedy: PREFLIGHT_CHECKS[code].remedy, ...compared };
}

export function caution(code: PreflightCode, message: string, compared: Compared = {}): Finding {
  return { ...problem(code, message, compared), severity: 'warning' };
}

export const NOT_RECORDED = 'not recorded';

/** Of a checkpoint that an older version took. */
export function notRecorded(code: PreflightCode): Finding {
  const { checks } = PREFLIGHT_CHECKS[code];
  return caution(code, `the checkpoint does not record this, so it was not compared: ${checks}`, {
    recorded: NOT_RECORDED,
    remedy: 'a checkpoint that is taken now records it',
  });
}

export function problemsIn(findings: readonly Finding[]): readonly Finding[] {
  return findings.filter(({ severity }) => severity === 'error');
}

/** What an `Incompatible` carries: `reasons` are the messages of its errors, `findings` everything. */
export function findingDetails(findings: readonly Finding[]): {
  readonly reasons: readonly string[];
  readonly findings: readonly Finding[];
} {
  return { reasons: problemsIn(findings).map(({ message }) => message), findings };
}

/** For the warnings of a result: what an old checkpoint does not say is one line. */
export function warningTexts(findings: readonly Finding[]): readonly string[] {
  const warnings = findings.filter(({ severity }) => severity === 'warning');
  const silent = warnings.filter(({ recorded }) => recorded === NOT_RECORDED);
  const told = warnings.filter((warning) => !silent.includes(warning)).map(({ message }) => message);
  return silent.length === 0
    ? told
    : [...told, `the checkpoint does not record ${silent.map(({ code }) => code).join(', ')}: not compared`];
}
