/* What other engines get of a checkpoint: their own dumps back, or new ones, and one layer. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { METADATA_FILE } from '../../core/checkpoint/file-names.ts';
import { commitDir, sampleMetadata, testOp, writeFiles } from '../../test/harness/checkpoint-dir.ts';
import { criuImages, sampleMembers, sampleSpec, tarOf } from '../../test/harness/foreign-archive.ts';
import { openDirectoryCopy } from '../copy.ts';
import { type AnyImported, importArchive, importImage } from './any-archive.ts';
import { archivePieces } from './export-archive.ts';
import { exportImage } from './export-image.ts';
import { exportedFiles } from './export-files.ts';
import type { ExportedArchive } from './export-files.ts';
import { DEFAULT_LIMITS } from './limits.ts';

let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-exports-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const request = (): Omit<Parameters<typeof importArchive>[0], 'stream'> => ({
  checkpointsDir: join(root, 'checkpoints'),
  op: testOp(),
  acceptForeign: () => undefined,
  foreign: { limits: DEFAULT_LIMITS, namespace: 'default', missingMounts: 'keep' },
});

async function* streamOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}

async function bytesOf(archive: ExportedArchive): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of archivePieces(archive, testOp())) {
    pieces.push(Buffer.from(piece));
  }
  return Buffer.concat(pieces);
}

async function contents(archive: ExportedArchive): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const { path, bytes, content } of archive.files) {
    const pieces: Buffer[] = [];
    for await (const piece of content()) {
      pieces.push(Buffer.from(piece));
    }
    found.set(path, Buffer.concat(pieces));
    expect(found.get(path)?.length, path).toBe(bytes);
  }
  return found;
}

/** A checkpoint of ours, of a container of containerd. */
async function ours(more: Partial<ReturnType<typeof sampleMetadata>> = {}): Promise<string> {
  const dir = join(root, 'ours');
  await writeFiles(dir, {
    ...Object.fromEntries(Object.entries(criuImages()).map(([name, bytes]) => [`criu/${name}`, bytes])),
    'config.json': JSON.stringify({ ...sampleSpec(), hooks: {}, annotations: { 'io.kubernetes.x': 'y', own: 'z' } }),
    'fs/rootfs-diff.tar': tarOf([
      { name: 'data/own', content: 'mine' },
      { name: 'emptied', type: '5', mode: 0o755 },
    ]),
    'fs/link-remap.tar': tarOf([{ name: 'tmp/link_remap.1', content: 'open' }]),
    'fs/deleted.files': '["etc/gone","emptied"]',
    'logs/dump.log': 'dumped',
    'logs/stats-dump': 'counted',
  });
  const manifest = await commitDir(dir, 'ck-ours');
  const metadata = sampleMetadata('ck-ours', manifest);
  const [digest, configDigest] = ['ee', 'dd'].map((byte) => `sha256:${byte.repeat(32)}`);
  const image = { ref: 'docker.io/library/web:1', digest, configDigest };
  await writeFile(
    join(dir, METADATA_FILE),
    JSON.stringify({ ...metadata, container: { ...metadata.container, image }, ...more }),
  );
  return dir;
}

/** Every file is flushed, which a busy disk takes its time for. */
const PATIENT = { timeout: 30_000 };

describe('an export', PATIENT, () => {
  it('to Podman of what came from Podman has its dumps and files as they were', async () => {
    const archive = tarOf([...sampleMembers().values()]);
    const { path } = await importArchive({ ...request(), stream: streamOf(archive) });

    const exported = await exportedFiles(await openDirectoryCopy(path, testOp()), 'podman', undefined);

    const files = await contents(exported);
    for (const name of ['spec.dump', 'config.dump', 'network.status', 'stats-dump', 'ctr.log', 'volumes/v.tar']) {
      expect(files.get(name), name).toEqual(Buffer.from(sampleMembers().get(name)?.content ?? ''));
    }
    expect([...files.keys()].slice(0, 2)).toEqual(['config.dump', 'spec.dump']);
    expect(files.get('checkpoint/pages-1.img')).toEqual(criuImages()['pages-1.img']);
    expect(JSON.parse(files.get('deleted.files')?.toString() ?? '')).toEqual(['/etc/old', '/usr/gone']);
    const again = await importArchive({
      ...request(),
      checkpointsDir: join(root, 'again'),
      stream: streamOf(await bytesOf(exported)),
    });
    expect(again.origin).toMatchObject({ format: 'podman', missing: [] });
  });

  it("has every file of CRI-O's archive again, those that nobody knows too", async () => {
    const names = ['pod.options', 'pod.dump', 'bind.mounts', 'status.dump', 'io.kubernetes.cri-o.LogPath'];
    const added = [...names, 'container.log', 'artifacts/a', 'of/nobody', 'volumes/w.tar'];
    const members = sampleMembers();
    const spec = JSON.stringify({ ...sampleSpec(), annotations: { 'io.container.manager': 'cri-o' }, mounts: [] });
    members.set('spec.dump', { name: 'spec.dump', content: spec });
    members.delete('volumes/v.tar');
    added.forEach((name) => members.set(name, { name, content: `of ${name}` }));

    const { path, origin } = await importArchive({ ...request(), stream: streamOf(tarOf([...members.values()])) });

    expect(origin).toMatchObject({ format: 'cri-o', missing: [] });
    expect(origin?.carried).toEqual([...added, 'ctr.log', 'network.status', 'stats-dump'].sort());
    for (const format of ['cri', 'podman'] as const) {
      const files = await contents(await exportedFiles(await openDirectoryCopy(path, testOp()), format, undefined));
      for (const name of added) {
        expect(files.get(name)?.toString(), `${name} for ${format}`).toBe(`of ${name}`);
      }
      expect(files.get('spec.dump')?.toString() === spec, format).toBe(format === 'cri');
    }
  });

  it('to Podman of ours has a configuration that names image, name and id, and every file that CRIU opens', async () => {
    const exported = await exportedFiles(await openDirectoryCopy(await ours(), testOp()), 'podman', undefined);

    const files = await contents(exported);
    expect(JSON.parse(files.get('config.dump')?.toString() ?? '')).toMatchObject({
      id: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      name: 'source',
      rootfsImageName: 'docker.io/library/web:1',
      rootfsImageID: 'dd'.repeat(32),
      networkMode: 'none',
    });
    expect(JSON.parse(files.get('spec.dump')?.toString() ?? '')).toMatchObject({
      annotations: { 'io.container.manager': 'libpod', own: 'z' },
    });
    expect(files.get('rootfs-diff.tar')?.toString('latin1')).toContain('tmp/link_remap.1');
    expect(JSON.parse(files.get('deleted.files')?.toString() ?? '')).toEqual(['/etc/gone']);
    expect(exported.warnings).toEqual([expect.stringContaining('emptied')]);
    expect(files.get('stats-dump')?.toString()).toBe('counted');
  });

  it('in the form of the CRI has whiteouts, and is imported again', async () => {
    const exported = await exportedFiles(await openDirectoryCopy(await ours(), testOp()), 'cri', 'ab'.repeat(32));

    const again = await importArchive({ ...request(), stream: streamOf(await bytesOf(exported)) });

    expect(again.origin).toMatchObject({ format: 'containerd', image: { configDigest: `sha256:${'ab'.repeat(32)}` } });
    const deleted = await readFile(join(again.path, 'fs/deleted.files'), 'utf8');
    expect(JSON.parse(deleted)).toEqual(['emptied', 'etc/gone']);
  });

  it('in the form of the CRI has a status of its container, and an image that can be pulled by its digest', async () => {
    const dir = await ours({
      container: {
        id: 'ab'.repeat(32),
        namespace: 'k8s.io',
        runtime: 'io.containerd.runc.v2',
        labels: { 'io.kubernetes.pod.name': 'web-0', 'io.cri-containerd.kind': 'container' },
        createdAt: '2025-01-01T00:00:00.000Z',
        image: { ref: 'registry:5000/team/web:1', digest: `sha256:${'ee'.repeat(32)}` },
        pod: { namespace: 'shop', name: 'web-0', uid: 'u-1', container: 'app' },
      },
    });

    const exported = await exportedFiles(await openDirectoryCopy(dir, testOp()), 'cri', undefined);

    const files = await contents(exported);
    const json = (name: string): unknown => JSON.parse(files.get(name)?.toString() ?? '');
    expect(json('config.dump')).toMatchObject({
      id: 'ab'.repeat(32),
      name: 'app_web-0_shop_u-1_0',
      rootfsImageName: 'registry:5000/team/web:1',
      rootfsImageRef: `registry:5000/team/web@sha256:${'ee'.repeat(32)}`,
      createdTime: '2025-01-01T00:00:00.000Z',
      checkpointedTime: '2025-01-02T03:04:05.000Z',
    });
    expect(json('status.dump')).toMatchObject({
      state: 1,
      created_at: 1_735_689_600_000_000_000,
      labels: { 'io.kubernetes.pod.name': 'web-0' },
    });
    expect(json('status.dump')).not.toHaveProperty(['labels', 'io.cri-containerd.kind']);
    expect(json('status')).toMatchObject({ Version: 'v1', CreatedAt: 1_735_689_600_000_000_000 });
    expect(json('spec.dump')).toMatchObject({ annotations: { 'io.kubernetes.cri.sandbox-name': 'web-0' } });
    expect(files.get('stats-dump')?.toString()).toBe('counted');
  });

  it.each([
    ['podman', ['127.0.0.1'], ['--tcp-established']],
    ['cri', ['127.0.0.1'], ['has no option for them']],
    ['cri', [], []],
  ] as const)('to %s of one with connections of %j warns of %j', async (format, connectedAddresses, words) => {
    const { capture } = sampleMetadata('ck', { merkleRoot: '', totalBytes: 0 });
    const dir = await ours({ capture: { ...capture, connectedAddresses: [...connectedAddresses] } });

    const { warnings } = await exportedFiles(await openDirectoryCopy(dir, testOp()), format, undefined);

    const told = warnings.filter((warning) => warning.includes('TCP'));
    expect(told).toEqual(words.map((word) => expect.stringContaining(word) as string));
  });

  it('as an image is added to a layout, is imported from there', async () => {
    const archive = await exportedFiles(await openDirectoryCopy(await ours(), testOp()), 'podman', undefined);
    const dir = join(root, 'layout');
    for (const tag of ['one', 'two', 'one']) {
      await exportImage(archive, { dir, tag }, testOp());
    }

    const load = (tag?: string): Promise<AnyImported> =>
      importImage(request(), { dir, ...(tag === undefined ? {} : { tag }) });
    const imported = await load('two');

    expect(imported.origin?.form).toBe('oci-image');
    const index = JSON.parse(await readFile(join(dir, 'index.json'), 'utf8')) as { manifests: unknown[] };
    expect(index.manifests).toHaveLength(2);
    await expect(load('three')).rejects.toMatchObject({ type: 'InvalidInput' });
    await expect(load()).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it('of ours keeps its id, and is refused under another', async () => {
    const dir = await ours();
    const { checkpointId } = JSON.parse(await readFile(join(dir, METADATA_FILE), 'utf8')) as { checkpointId: string };
    const name = `checkpoint-${checkpointId}/manifest.json`;
    const stream = (): AsyncGenerator<Uint8Array> => streamOf(tarOf([{ name, content: '{}' }]));
    const foreign = { ...request().foreign, checkpointId: 'ck-other' };

    await expect(importArchive({ ...request(), foreign, stream: stream() })).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining(`archive is of the checkpoint ${checkpointId}`) as string,
    });
    await expect(
      importArchive({ ...request(), foreign: { ...foreign, checkpointId }, stream: stream() }),
    ).rejects.not.toMatchObject({ type: 'InvalidInput' });
  });

  it('is refused of a checkpoint with GPU processes', async () => {
    const gpu = [{ hostPid: 1, nsPid: 1, vramBytes: 1, devices: [], visible: [] }];
    const dir = await ours({ gpuProcesses: gpu });
    await expect(exportedFiles(await openDirectoryCopy(dir, testOp()), 'podman', undefined)).rejects.toThrow('GPU');
  });
});
