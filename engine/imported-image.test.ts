/* Which layers a container is put on, by a false containerd that has one image of one layer. */
import { expect, it } from 'vitest';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import { KybernateError } from '../core/errors.ts';
import type { OciSpec } from '../core/oci/spec.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { Captured } from './captured.ts';
import { chainId, configDigestOf, withImageHere } from './imported-image.ts';

const LAYER = `sha256:${'a'.repeat(64)}`;
const IMAGE = { name: 'docker.io/library/web:1', digest: `sha256:${'b'.repeat(64)}` };
const DOCUMENTS: Readonly<Record<string, unknown>> = {
  [IMAGE.digest]: { config: { digest: 'sha256:config' } },
  'sha256:config': { rootfs: { diff_ids: [LAYER] } },
};
const MAPPINGS = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
const MAPPED: OciSpec = { linux: { namespaces: [{ type: 'user' }], uidMappings: MAPPINGS, gidMappings: MAPPINGS } };

function containerd(more: Partial<Containerd> = {}): Containerd {
  return {
    getImage: () => Promise.resolve(IMAGE),
    // oxlint-disable-next-line typescript/require-await -- a stream of one chunk
    async *readContent(_namespace: string, digest: string) {
      yield Buffer.from(JSON.stringify(DOCUMENTS[digest]));
    },
    statSnapshot: () => Promise.resolve(undefined),
    snapshotterCapabilities: () => Promise.resolve(['remap-ids']),
    ...more,
  } as Containerd;
}

function captured(spec: OciSpec, rootfs: Partial<Metadata['rootfs']>, image = IMAGE.digest): Captured {
  const metadata = { rootfs, container: { image: { ref: IMAGE.name, digest: image } } } as Metadata;
  return { metadata, spec };
}

const REMAPPED = { parent: 'sha256:remapped', snapshotter: 'overlayfs' };
const layersOf = async (checkpoint: Captured, here: Containerd): Promise<Metadata['rootfs']> =>
  (await withImageHere({ containerd: here }, 'default', checkpoint)).metadata.rootfs;

it('a copy of the image for a user namespace that is gone is the image itself, shown as its users', async () => {
  const idMapping = { uid: '0:100000:65536', gid: '0:100000:65536' };

  expect(await layersOf(captured(MAPPED, REMAPPED), containerd())).toEqual({
    ...REMAPPED,
    parent: chainId([LAYER]),
    idMapping,
  });
});

it.each<[string, Captured, Partial<Containerd>]>([
  [
    'is still here',
    captured(MAPPED, REMAPPED),
    {
      statSnapshot: (_namespace, _name, key) =>
        Promise.resolve({ name: key, parent: '', kind: 'committed', labels: {} }),
    },
  ],
  [
    'cannot be shown by this snapshotter',
    captured(MAPPED, REMAPPED),
    { snapshotterCapabilities: () => Promise.resolve([]) },
  ],
  ['is of another image than the one here', captured(MAPPED, REMAPPED, 'sha256:other'), {}],
  ['is of no user namespace', captured({}, REMAPPED), {}],
])('nothing is changed for a layer that %s', async (_what, checkpoint, more) => {
  expect(await layersOf(checkpoint, containerd(more))).toEqual(REMAPPED);
});

it('an imported container is put on the image of the name that its engine knew', async () => {
  const metadata = { rootfs: {}, container: {}, origin: { image: { name: IMAGE.name } } } as Metadata;

  const found = await withImageHere({ containerd: containerd() }, 'default', { metadata, spec: {} });

  expect(found.metadata.rootfs).toEqual({ parent: chainId([LAYER]), snapshotter: 'overlayfs' });
  expect(found.metadata.container.image).toEqual({ ref: IMAGE.name, digest: IMAGE.digest });
});

it('the id of an image is the digest of its configuration, and unknown where its manifest is gone', async () => {
  const gone: Partial<Containerd> = {
    readContent: () => {
      throw new KybernateError('Internal', 'not found');
    },
  };

  expect(await configDigestOf({ containerd: containerd() }, 'default', IMAGE.digest)).toBe('sha256:config');
  expect(await configDigestOf({ containerd: containerd(gone) }, 'default', IMAGE.digest)).toBeUndefined();
});
