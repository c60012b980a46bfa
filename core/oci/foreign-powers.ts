/*
 * What a restored container of somebody else's making may do to the node, for whoever imports it: none of it can be taken
 * away, since the images of its processes have it, and containers may need it. Pure.
 */
import { isBind, namespaceKind, type OciMount, type OciSpec } from './spec.ts';

/** What Docker and Podman give a container, one or the other. Source: containers/common, pkg/config; moby, oci/caps. */
const USUAL_CAPABILITIES: ReadonlySet<string> = new Set([
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_MKNOD',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_RAW',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
]);
const NAMESPACES = ['pid', 'network', 'ipc', 'mount'] as const;
const TOLD = 8;

/** @param sourceKind what lies at a path of the node; absent where that is not known */
export function powersOf(
  spec: OciSpec,
  sourceKind: ((path: string) => string | undefined) | undefined,
): readonly string[] {
  const binds = (spec.mounts ?? []).filter((mount) => isHostPath(mount, sourceKind));
  const more = binds.length > TOLD ? [`and ${binds.length - TOLD} more mounts of the node`] : [];
  const shared = NAMESPACES.filter((type) => namespaceKind(spec, type) === 'host');
  const capabilities = unusualCapabilities(spec);
  return [
    ...binds
      .slice(0, TOLD)
      .map(({ destination, source, options }) =>
        options?.includes('ro') === true
          ? `its mount ${destination} reads ${source} of the node`
          : `its mount ${destination} writes to ${source} of the node`,
      ),
    ...more,
    ...(capabilities.length === 0
      ? []
      : [`it has capabilities that containers usually lack: ${capabilities.join(', ')}`]),
    ...(shared.length === 0 ? [] : [`it shares namespaces with the node: ${shared.join(', ')}`]),
    ...(mayUseEveryDevice(spec) ? ['it may use every device of the node'] : []),
  ];
}

function isHostPath(mount: OciMount, sourceKind: Parameters<typeof powersOf>[1]): boolean {
  const { source } = mount;
  return (
    isBind(mount) &&
    source?.startsWith('/') === true &&
    source !== '/dev/null' &&
    (sourceKind === undefined || sourceKind(source) !== undefined)
  );
}

function unusualCapabilities({ process }: OciSpec): string[] {
  const { capabilities } = (process ?? {}) as { readonly capabilities?: { readonly bounding?: unknown } };
  const bounding = Array.isArray(capabilities?.bounding) ? capabilities.bounding : [];
  return bounding.filter((name): name is string => typeof name === 'string' && !USUAL_CAPABILITIES.has(name));
}

function mayUseEveryDevice({ linux }: OciSpec): boolean {
  return (linux?.resources?.devices ?? []).some(
    ({ allow, type = 'a', major, minor, access = '' }) =>
      allow && type === 'a' && major === undefined && minor === undefined && /[rw]/.test(access),
  );
}
