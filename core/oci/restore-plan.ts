/*
 * How a `runc create` becomes a `runc restore`, as data: the specification of the new container made to fit the images,
 * runc's arguments and CRIU's configuration. Pure; the wrapper carries it out, tests compare it with golden files.
 *
 * What must hold between images and specification (seen with runc 1.1 to 1.5 and CRIU 4.2):
 * - every mount of the images that came from outside needs a bind mount of the same destination in the specification
 *   (`mnt: No mapping for ...` otherwise); a mount that only the specification has is silently not made;
 * - device nodes come back from the dumped /dev, but opening one needs its rule in the device cgroup;
 * - network and pid namespaces are either in the images or outside of them, and the specification must agree;
 * - a container in a pod gets nothing of the host that its own specification does not give it: the source's volumes and
 *   devices were granted to another pod, which may still be there;
 * - the cgroup is that of the new specification: CRIU is told to leave cgroups alone.
 */
import type { Metadata } from '../checkpoint/metadata.ts';
import { KybernateError } from '../errors.ts';
import { isInPod, RESTORE_FROM_VARIABLE } from './annotations.ts';
import { CRIU_OPTIONS, criuOptionNamed, NO_PLUGINS } from './criu-options.ts';
import type { CriuOptionRow } from './criu-options.ts';
import { type GpuFit, hookMountLines, withDriverFiles, withGpus, withMemory, withoutGpus } from './gpu-fit.ts';
import { withLoopback } from './loopback.ts';
import { isOwnLayer } from './foreign-spec.ts';
import { OWN_SHM, ownPlaceName, podsMount } from './own-mounts.ts';
import { DEV_SHM, isPodsOwn, normalizedDestination as normalized } from './pod-volumes.ts';
import type { RuncCreate } from './runc-argv.ts';
import { runcRestoreArgv } from './runc-argv.ts';
import type { OciDeviceRule, OciHook, OciLinux, OciMount, OciSpec } from './spec.ts';
import { isBind, namespaceKind, namespacePath } from './spec.ts';
import { type HostOwner, mappedRoot } from './user-namespace.ts';

export interface RestorePlanInput {
  /** specification of the bundle, as its creator wrote it */
  readonly newSpec: OciSpec;
  /** specification of the source; absent for a bare image directory */
  readonly capturedSpec?: OciSpec;
  readonly metadata?: Pick<Metadata, 'capture' | 'stdio' | 'hookMounts'> & Partial<Pick<Metadata, 'gpuProcesses'>>;
  readonly create: RuncCreate;
  readonly bundle: string;
  readonly imageDir: string;
  readonly workDir: string;
  readonly tcp: 'keep' | 'close';
  /** those of `sourcesToCheck` (gpu-fit.ts) that exist on this node */
  readonly presentSources: ReadonlySet<string>;
  /** absent for a checkpoint without GPU processes */
  readonly gpu?: GpuFit;
}

export interface RestorePlan {
  readonly spec: OciSpec;
  /** arguments of runc */
  readonly argv: readonly string[];
  /**
   * CRIU becomes this user, the root of the container's user namespace, before it opens most of the images: they must be
   * shown to it, as descriptor `SHOWN_IMAGES_FD` of runc. Absent: root itself reads them where they are.
   */
  readonly imageReader?: HostOwner;
  /** content of the file that CRIU_CONFIG_FILE names; may be empty */
  readonly criuConfigText: string;
  /**
   * CRIU writes the dumped host name into the UTS namespace. `keep` is the shared namespace whose name must be read
   * before the restore and written back after it; `set` is the name that the new specification asks for.
   */
  readonly hostname?: { readonly keep: string } | { readonly set: string };
  /** network namespace that was there before the container, and the ports that the restore takes there */
  readonly sharedNetwork?: { readonly path: string; readonly ports: readonly number[] };
  /** the container gets a tmpfs for what was a mount from outside: it must be there, filled, when CRIU looks for it */
  readonly ownShm?: true;
  /** nftables table that holds the kept connections back; to be deleted after the restore */
  readonly networkHoldTable?: string;
  readonly warnings: readonly string[];
}

/** One digit: a shell cannot name others. */
export const SHOWN_IMAGES_FD = 9;

/**
 * @throws Incompatible the new container cannot take the images; `details.reasons` lists every reason
 */
export function restorePlan(input: RestorePlanInput): RestorePlan {
  const reasons: string[] = [];
  const warnings: string[] = [];
  const spec = withLoopback(fitSpec(withOwnDriver(input, warnings), reasons, warnings));
  const hookMounts = hookMountLines(input.metadata?.hookMounts ?? [], input, reasons, warnings);
  if (reasons.length > 0) {
    throw new KybernateError(
      'Incompatible',
      `container ${input.create.id} cannot take the images of ${input.imageDir}: ${reasons.join('; ')}`,
      { details: { reasons } },
    );
  }
  // A dump with closed connections has no state to bring back, whatever the restore asks for.
  const keepTcp = input.tcp === 'keep' && input.metadata?.capture.tcp !== 'close';
  const hasGpu = input.gpu !== undefined || (input.metadata?.gpuProcesses ?? []).length > 0;
  // Images of our own CRIU name no plugin, but one that is installed would take processes in hand all the same. Those that
  // containerd's made may name it, and are refused without.
  const pluginsOff = hasGpu && input.metadata?.capture.engine !== 'containerd';
  const hostname = hostnamePlan(input.newSpec, input.capturedSpec);
  const hold = input.metadata?.capture.networkHold;
  const imageReader = mappedRoot(spec);
  const ownShm = isShmFromOutside(input.capturedSpec) && !(spec.mounts ?? []).some(isBoundShm);
  return {
    spec,
    argv: runcRestoreArgv(input.create, {
      imageDir: imageReader === undefined ? input.imageDir : `/proc/self/fd/${SHOWN_IMAGES_FD}`,
      workDir: input.workDir,
      bundle: input.bundle,
      criuFlags: [
        CRIU_OPTIONS.manageCgroups.runc,
        'ignore',
        ...(keepTcp ? [CRIU_OPTIONS.tcpEstablished.runc] : []),
        ...recordedFlags(input.metadata),
      ],
    }),
    criuConfigText: [
      ...(keepTcp ? [] : [CRIU_OPTIONS.tcpClose.criu]),
      ...(pluginsOff ? [`${CRIU_OPTIONS.pluginDir.criu} ${NO_PLUGINS}`] : []),
      ...hookMounts,
      ...(ownShm ? [`external mnt[${DEV_SHM}]:${DEV_SHM}`] : []),
    ]
      .map((line) => `${line}\n`)
      .join(''),
    ...(imageReader === undefined ? {} : { imageReader }),
    ...(hostname === undefined ? {} : { hostname }),
    ...sharedNetwork(spec, input.metadata?.capture.tcpPorts ?? []),
    ...(ownShm ? { ownShm } : {}),
    ...(hold === undefined ? {} : { networkHoldTable: hold.table }),
    warnings,
  };
}

function isBoundShm(mount: OciMount): boolean {
  return isBind(mount) && normalized(mount.destination) === DEV_SHM;
}

function isShmFromOutside(captured: OciSpec | undefined): boolean {
  return (captured?.mounts ?? []).some(isBoundShm);
}

/** Without a namespace of its own in the specification a container has the network of its creator. */
function sharedNetwork(spec: OciSpec, ports: readonly number[]): Pick<RestorePlan, 'sharedNetwork'> {
  const network = spec.linux?.namespaces?.find(({ type }) => type === 'network');
  const path = network === undefined ? '/proc/self/ns/net' : network.path;
  return path === undefined || ports.length === 0 ? {} : { sharedNetwork: { path, ports } };
}

/** Flags that a restore must repeat because the dump had them. Of a bare image nothing is known: allow what is harmless. */
function recordedFlags(metadata: RestorePlanInput['metadata']): readonly string[] {
  if (metadata === undefined) {
    return [CRIU_OPTIONS.externalUnixSockets.runc, CRIU_OPTIONS.fileLocks.runc];
  }
  const flags = metadata.capture.criuOptions.flatMap((recorded) => {
    const name = criuOptionNamed(recorded.option);
    // TCP is decided by the restore; lazy pages and deduplication would need a server and writable images.
    if (name === undefined || name === 'tcpEstablished' || name === 'lazyPages' || name === 'autoDedup') {
      return [];
    }
    const row: CriuOptionRow = CRIU_OPTIONS[name];
    return row.use === 'both' && row.type === 'flag' && row.runc !== undefined ? [row.runc] : [];
  });
  return [...new Set(flags)];
}

/** Files of the driver in the version that is here, and no GPU in the captured specification: its numbers are stale. */
function withOwnDriver(input: RestorePlanInput, warnings: string[]): RestorePlanInput {
  const { gpu, presentSources } = input;
  if (gpu === undefined) {
    return input;
  }
  const fit = (spec: OciSpec, heard: string[]): OciSpec => ({
    ...spec,
    mounts: withDriverFiles(spec.mounts ?? [], presentSources, gpu, heard),
  });
  const captured = input.capturedSpec === undefined ? undefined : fit(input.capturedSpec, warnings);
  return {
    ...input,
    newSpec: fit(input.newSpec, []),
    ...(captured === undefined ? {} : { capturedSpec: { ...captured, linux: withoutGpus(captured.linux ?? {}) } }),
  };
}

function fitSpec(input: RestorePlanInput, reasons: string[], warnings: string[]): OciSpec {
  const { newSpec, capturedSpec } = input;
  const env = (newSpec.process?.env ?? []).filter((entry) => !entry.startsWith(`${RESTORE_FROM_VARIABLE}=`));
  const process = newSpec.process === undefined ? {} : { process: { ...newSpec.process, env } };
  const hooks = newSpec.hooks === undefined ? {} : { hooks: fitHooks(newSpec.hooks, warnings) };
  const withoutWish: OciSpec = { ...newSpec, ...process, ...hooks };
  if (capturedSpec === undefined) {
    return withoutWish;
  }
  checkTerminal(input, capturedSpec, reasons);
  checkNamespaces(newSpec, capturedSpec, reasons, warnings);
  const linux = fitLinux(newSpec.linux ?? {}, capturedSpec.linux ?? {}, isInPod(newSpec) ? reasons : undefined);
  return {
    ...withoutWish,
    mounts: fitMounts(input, capturedSpec, reasons, warnings),
    linux: fitGpus(linux, input.gpu),
  };
}

function checkTerminal(input: RestorePlanInput, capturedSpec: OciSpec, reasons: string[]): void {
  const captured = input.metadata?.stdio.terminal ?? capturedSpec.process?.terminal ?? false;
  const wanted = input.newSpec.process?.terminal ?? false;
  if (captured !== wanted) {
    reasons.push(
      captured
        ? 'the checkpoint was taken with a terminal, the new container has none'
        : 'the checkpoint was taken without a terminal, the new container wants one',
    );
  }
}

function checkNamespaces(newSpec: OciSpec, captured: OciSpec, reasons: string[], warnings: string[]): void {
  for (const type of ['network', 'pid', 'user']) {
    const was = namespaceKind(captured, type);
    const is = namespaceKind(newSpec, type);
    if (was !== is) {
      reasons.push(`${type} namespace: ${KIND_WORDS[was]} at the dump, ${KIND_WORDS[is]} now`);
    }
  }
  for (const type of ['ipc', 'uts']) {
    const was = namespaceKind(captured, type);
    const is = namespaceKind(newSpec, type);
    if (was === 'host' && is !== 'host') {
      reasons.push(`${type} namespace: ${KIND_WORDS[was]} at the dump, ${KIND_WORDS[is]} now`);
    } else if (was !== 'host' && is === 'host') {
      warnings.push(`the ${type} namespace comes from the checkpoint, not from the host`);
    }
  }
  if (namespacePath(newSpec, 'cgroup') !== undefined) {
    reasons.push('cgroup namespace: a restore cannot join one');
  }
  for (const mappings of ['uidMappings', 'gidMappings'] as const) {
    if (JSON.stringify(newSpec.linux?.[mappings] ?? []) !== JSON.stringify(captured.linux?.[mappings] ?? [])) {
      reasons.push(`${mappings} of the user namespace differ`);
    }
  }
}

const KIND_WORDS = { host: "the host's", own: 'one of its own', joined: 'a joined one' } as const;

function fitMounts(
  input: RestorePlanInput,
  captured: OciSpec,
  reasons: string[],
  warnings: string[],
): readonly OciMount[] {
  const inPod = isInPod(input.newSpec);
  const wanted = new Map((captured.mounts ?? []).map((mount) => [normalized(mount.destination), mount]));
  const kept = (input.newSpec.mounts ?? []).flatMap((mount) => {
    const destination = normalized(mount.destination);
    const before = wanted.get(destination);
    if (before !== undefined && getsOwnShm(before, mount, inPod)) {
      wanted.delete(destination);
      return [OWN_SHM];
    }
    if (before === undefined) {
      warnings.push(`mount ${destination} is not in the checkpoint and will not be there`);
      return [mount];
    }
    if (isBind(mount) && !isBind(before)) {
      warnings.push(`mount ${destination}: the checkpoint brings its own ${before.type ?? 'file system'}`);
    }
    if (isBind(before) && !isBind(mount)) {
      return [];
    }
    wanted.delete(destination);
    return [mount];
  });
  const injected = [...wanted.values()].flatMap((mount): OciMount[] => {
    if (inPod && isBind(mount)) {
      reasons.push(
        `mount ${mount.destination}: the source had a volume there, and this pod has none: give its container a volumeMount`,
      );
      return [];
    }
    if (getsOwnShm(mount, undefined, inPod)) {
      return [OWN_SHM];
    }
    const { source = '' } = mount;
    const isOthers = isPodsOwn(source, captured) || ownPlaceName(source) !== undefined;
    if (isBind(mount) && isOthers && mount.options?.includes('ro') !== true) {
      reasons.push(podsMount(mount.destination, source));
      return [];
    }
    const usable = !isBind(mount) || (mount.source !== undefined && input.presentSources.has(mount.source));
    if (!usable) {
      reasons.push(`mount ${mount.destination}: ${mount.source ?? 'its source'} does not exist on this node`);
    }
    return usable ? [mount] : [];
  });
  return [...kept, ...injected];
}

/**
 * Beside pods: what was mounted as /dev/shm from outside is its source's, who may live, or its pod's.
 * @param now that the new container asks for at the same place; absent: nothing
 */
function getsOwnShm(before: OciMount, now: OciMount | undefined, inPod: boolean): boolean {
  const isOutside = isBoundShm(before) && !isOwnLayer(before.source ?? '');
  return !inPod && isOutside && (now === undefined || !isBind(now));
}

/** @param refuse gets a reason for each device that only the source had; absent: they are added */
function fitLinux(linux: OciLinux, captured: OciLinux, refuse?: string[]): OciLinux {
  const rules = linux.resources?.devices ?? [];
  const known = new Set(rules.map(ruleKey));
  const missingRules = (captured.resources?.devices ?? []).filter((rule) => rule.allow && !known.has(ruleKey(rule)));
  const paths = new Set((linux.devices ?? []).map((device) => device.path));
  const missingDevices = (captured.devices ?? []).filter((device) => !paths.has(device.path));
  refuse?.push(
    ...missingRules.map((rule) => `device ${ruleText(rule)}: the source's pod was given it, and this one is not`),
  );
  return {
    ...linux,
    ...(missingDevices.length === 0 ? {} : { devices: [...(linux.devices ?? []), ...missingDevices] }),
    ...(missingRules.length === 0 ? {} : { resources: { ...linux.resources, devices: [...rules, ...missingRules] } }),
    // Masked files are mounts of the images that came from outside: exactly those of the dump must be offered.
    ...(captured.maskedPaths === undefined ? {} : { maskedPaths: captured.maskedPaths }),
    ...(captured.readonlyPaths === undefined ? {} : { readonlyPaths: captured.readonlyPaths }),
  };
}

function fitGpus(linux: OciLinux, gpu: GpuFit | undefined): OciLinux {
  return gpu === undefined ? linux : withMemory(withGpus(linux, gpu.nodes), gpu.memoryBytes);
}

function ruleKey(rule: OciDeviceRule): string {
  return [rule.allow, rule.type ?? 'a', rule.major ?? '*', rule.minor ?? '*', rule.access ?? ''].join(' ');
}

/** `c 195:0 rwm`, as the kernel writes it. */
function ruleText({ type = 'a', major, minor, access = '' }: OciDeviceRule): string {
  return `${type} ${major ?? '*'}:${minor ?? '*'} ${access}`.trimEnd();
}

/** The NVIDIA hooks mount into a root that CRIU has not made yet; what they mount is in the images or injected. */
function fitHooks(
  hooks: Readonly<Record<string, readonly OciHook[]>>,
  warnings: string[],
): Readonly<Record<string, readonly OciHook[]>> {
  return Object.fromEntries(
    Object.entries(hooks).map(([kind, list]) => [
      kind,
      list.filter((hook) => {
        const dropped = [hook.path, ...(hook.args ?? [])].some((word) => /nvidia|(?:^|[/-])cdi\b/.test(word));
        if (dropped) {
          warnings.push(`hook ${hook.path} is left out: it cannot run in a restore`);
        }
        return !dropped;
      }),
    ]),
  );
}

function hostnamePlan(newSpec: OciSpec, captured: OciSpec | undefined): RestorePlan['hostname'] {
  const shared = namespacePath(newSpec, 'uts');
  if (shared !== undefined) {
    return { keep: shared };
  }
  const wanted = newSpec.hostname;
  const named = wanted !== undefined && wanted !== '' && namespaceKind(newSpec, 'uts') === 'own';
  return named && wanted !== captured?.hostname ? { set: wanted } : undefined;
}
