import { KybernateError } from '../../core/errors.ts';
import { LONG, orUndefined, QUICK, type Channel } from './channel.ts';
import type { Containerd, Mount, SnapshotInfo } from './containerd.ts';

const LAYER_MEDIA_TYPE = 'application/vnd.oci.image.layer.v1.tar';
/** What neither a lease nor another object refers to is collected unless it carries this label. */
const GC_ROOT = 'containerd.io/gc.root';
const SNAPSHOTS = 'snapshots.v1.Snapshots';

/** A snapshotter's own state directory. Source: containerd 2.4, plugins/snapshots/overlay/plugin/plugin.go. */
const ROOT_EXPORT = 'root';

type SnapshotCalls =
  | 'statSnapshot'
  | 'prepareSnapshot'
  | 'viewSnapshot'
  | 'snapshotMounts'
  | 'removeSnapshot'
  | 'snapshotterDir'
  | 'snapshotterCapabilities';

interface SnapshotterPlugin {
  readonly exports: Readonly<Record<string, string>>;
  readonly capabilities: readonly string[];
}

function keptBy(lease: string | undefined): Record<string, string> {
  return lease === undefined ? { [GC_ROOT]: new Date().toISOString() } : {};
}

/** Calls of the Snapshots service. */
export function snapshotCalls({ call }: Channel): Pick<Containerd, SnapshotCalls> {
  async function mounts(namespace: string, name: string, request: object, lease?: string): Promise<Mount[]> {
    const answer = await call<{ mounts: Mount[] }>(namespace, SNAPSHOTS, name, request, { ...LONG, lease });
    return answer.mounts;
  }
  async function pluginOf(snapshotter: string): Promise<SnapshotterPlugin | undefined> {
    const filters = [`type==io.containerd.snapshotter.v1,id==${JSON.stringify(snapshotter)}`];
    const answer = await call<{ plugins: SnapshotterPlugin[] }>(
      'default',
      'introspection.v1.Introspection',
      'Plugins',
      { filters },
      QUICK,
    );
    return answer.plugins[0];
  }
  return {
    async statSnapshot(namespace, snapshotter, key) {
      interface Answer {
        info: SnapshotInfo | null;
      }
      const answer = await orUndefined(call<Answer>(namespace, SNAPSHOTS, 'Stat', { snapshotter, key }, QUICK));
      const info = answer?.info ?? undefined;
      if (info === undefined) {
        return undefined;
      }
      return { name: info.name, parent: info.parent, kind: info.kind.toLowerCase(), labels: info.labels };
    },
    prepareSnapshot: (namespace, snapshotter, key, parent, labels) =>
      mounts(namespace, 'Prepare', { snapshotter, key, parent, labels }),
    viewSnapshot: (namespace, snapshotter, key, parent, lease) =>
      mounts(namespace, 'View', { snapshotter, key, parent, labels: keptBy(lease) }, lease),
    snapshotMounts: (namespace, snapshotter, key) => mounts(namespace, 'Mounts', { snapshotter, key }),
    async removeSnapshot(namespace, snapshotter, key) {
      await orUndefined(call(namespace, SNAPSHOTS, 'Remove', { snapshotter, key }, LONG));
    },
    snapshotterDir: async (snapshotter) => (await pluginOf(snapshotter))?.exports[ROOT_EXPORT],
    snapshotterCapabilities: async (snapshotter) => (await pluginOf(snapshotter))?.capabilities ?? [],
  };
}

/** Calls of the Diff and Content services. */
export function contentCalls({ call, stream }: Channel): Pick<Containerd, 'diff' | 'readContent' | 'deleteContent'> {
  return {
    async diff(namespace, left, right, ref, lease) {
      interface Answer {
        diff: { digest: string; size: number } | null;
      }
      const request = { left, right, mediaType: LAYER_MEDIA_TYPE, ref, labels: keptBy(lease) };
      const answer = await call<Answer>(namespace, 'diff.v1.Diff', 'Diff', request, { ...LONG, lease });
      if (answer.diff === null) {
        throw new KybernateError('Internal', `containerd: diff.v1.Diff/Diff in ${namespace} answered without a layer`);
      }
      return { digest: answer.diff.digest, size: answer.diff.size };
    },
    async *readContent(namespace, digest) {
      const chunks = stream<{ data: Uint8Array }>(namespace, 'content.v1.Content', 'Read', { digest });
      for await (const chunk of chunks) {
        yield chunk.data;
      }
    },
    async deleteContent(namespace, digest) {
      await orUndefined(call(namespace, 'content.v1.Content', 'Delete', { digest }, QUICK));
    },
  };
}
