/*
 * A container in a user namespace of its own: whom its root is on the host, and what of it CRIU can bring back. CRIU makes
 * the namespace again from the images, with every other one below it, and acts as its root from then on.
 * Source: CRIU 4.2, criu/namespaces.c (check_user_ns, prepare_userns_creds).
 */
import { namespaceKind, namespacePath, type OciIdMapping, type OciSpec } from './spec.ts';

/** Ids on the host. */
export interface HostOwner {
  readonly uid: number;
  readonly gid: number;
}

/** Of containerd's snapshots. Source: containerd 2.4, core/snapshots/snapshotter.go. */
export const ID_MAPPING_LABELS = {
  uid: 'containerd.io/snapshot/uidmapping',
  gid: 'containerd.io/snapshot/gidmapping',
} as const;

/** In the form of those labels: `<in the container>:<on the host>:<how many>`, several by commas. */
export interface IdMapping {
  readonly uid: string;
  readonly gid: string;
}

/** @returns undefined without a user namespace of its own, or when nobody of the host is its root */
export function mappedRoot(spec: OciSpec): HostOwner | undefined {
  if (namespaceKind(spec, 'user') !== 'own') {
    return undefined;
  }
  const uid = hostIdOfRoot(spec.linux?.uidMappings);
  const gid = hostIdOfRoot(spec.linux?.gidMappings);
  return uid === undefined || gid === undefined ? undefined : { uid, gid };
}

function hostIdOfRoot(mappings: readonly OciIdMapping[] = []): number | undefined {
  const range = mappings.find(({ containerID, size }) => containerID === 0 && size > 0);
  return range?.hostID;
}

/** @returns undefined without a user namespace of its own */
export function idMappingOf(spec: OciSpec): IdMapping | undefined {
  const { uidMappings = [], gidMappings = [] } = spec.linux ?? {};
  const text = (mappings: readonly OciIdMapping[]): string =>
    mappings.map(({ containerID, hostID, size }) => `${containerID}:${hostID}:${size}`).join(',');
  return mappedRoot(spec) === undefined ? undefined : { uid: text(uidMappings), gid: text(gidMappings) };
}

/** Why a container cannot be dumped, or not be restored, for its user namespace. */
export function userNamespaceReasons(spec: OciSpec): readonly string[] {
  const path = namespacePath(spec, 'user');
  if (path !== undefined) {
    return [
      `it joined the user namespace ${path}, which CRIU cannot make others join again: give the container one of its own ` +
        '(ctr: --uidmap and --gidmap; in Kubernetes leave hostUsers: false away), or none',
    ];
  }
  if (namespaceKind(spec, 'user') !== 'own') {
    return [];
  }
  // What it joined was there before its user namespace, hence belongs to another one.
  const joined = ['network', 'ipc', 'uts', 'pid'].filter((type) => namespacePath(spec, type) !== undefined);
  return [
    ...joined.map(
      (type) =>
        `it has a user namespace of its own and joined the ${type} namespace ${namespacePath(spec, type) ?? ''}, which does ` +
        'not belong to it: CRIU dumps none such; start it with a namespace of its own, or without a user namespace',
    ),
    ...(mappedRoot(spec) === undefined
      ? ['its user namespace maps no user or group 0, as which CRIU would bring it back: map the ids from 0 on']
      : []),
  ];
}
