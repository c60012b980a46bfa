/* Archives of other engines: what becomes of an honest one, and what is refused of all others. */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import {
  CONTAINER,
  criuImages,
  type Member,
  paxMember,
  sampleConfig,
  sampleMembers,
  sampleSpec,
  tarMember,
  tarOf,
} from '../../test/harness/foreign-archive.ts';
import { surveyDirectory } from '../survey.ts';
import { type AnyImport, type AnyImported, importArchive } from './any-archive.ts';
import { DEFAULT_LIMITS } from './limits.ts';

let root = '';
let checkpoints = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-foreign-'));
  checkpoints = join(root, 'checkpoints');
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function* streamOf(bytes: Uint8Array, pieceBytes = 7001): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    yield await Promise.resolve(bytes.subarray(at, at + pieceBytes));
  }
}

function load(
  bytes: Uint8Array,
  foreign: Partial<AnyImport['foreign']> = {},
  more: Partial<AnyImport> = {},
): Promise<AnyImported> {
  return importArchive({
    ...more,
    stream: streamOf(bytes),
    checkpointsDir: checkpoints,
    op: testOp(),
    acceptForeign: () => undefined,
    foreign: {
      limits: DEFAULT_LIMITS,
      namespace: 'default',
      missingMounts: 'keep',
      sourceKind: (path) => (path.startsWith('/proc/kcore') ? 'file' : undefined),
      ...foreign,
    },
  });
}

/** The sample with members changed, added, or taken away (`undefined`). */
function changed(changes: Readonly<Record<string, Partial<Member> | undefined>>, more: readonly Buffer[] = []): Buffer {
  const members = sampleMembers();
  for (const [name, change] of Object.entries(changes)) {
    if (change === undefined) {
      members.delete(name);
    } else {
      members.set(name, { name, ...members.get(name), ...change });
    }
  }
  return tarOf([...members.values(), ...more]);
}

function layerOf(...members: ReadonlyArray<Member | Buffer>): Buffer {
  return changed({ 'rootfs-diff.tar': { content: tarOf(members) } });
}

async function metadataOf(path: string): Promise<Metadata> {
  return JSON.parse(await readFile(join(path, 'metadata.json'), 'utf8')) as Metadata;
}

/** Every file is flushed, which a busy disk takes its time for. */
const PATIENT = { timeout: 30_000 };

describe('an archive of Podman', PATIENT, () => {
  it.each([
    ['packed', zstdCompressSync],
    ['plain', (bytes: Buffer) => bytes],
  ])('that is %s does not use up what must stay free of the disk, and leaves nothing', async (_what, pack) => {
    const { bavail, bsize } = await statfs(root);

    // Nothing else may be written here; what a busy machine frees meanwhile is less.
    const refused = load(pack(changed({})), {}, { minFreeBytes: bavail * bsize + 2 ** 34 });

    await expect(refused).rejects.toMatchObject({
      type: 'DiskFull',
      message: expect.stringContaining('KYBERNATE_MIN_FREE_BYTES') as string,
    });
    expect(await readdir(checkpoints)).toEqual([]);
  });

  it('becomes a whole checkpoint, however it is packed, and the same one twice', async () => {
    const plain = changed({});

    const first = await load(plain);
    const others = [await load(zstdCompressSync(plain)), await load(gzipSync(plain))];

    expect(first.created).toBe(true);
    expect(others.map(({ created, checkpointId }) => ({ created, checkpointId }))).toEqual(
      others.map(() => ({ created: false, checkpointId: first.checkpointId })),
    );
    expect(first.checkpointId).toMatch(/^web-1-[0-9a-f]{8}$/);
    expect(await surveyDirectory({ dir: first.path, mode: 'full', op: testOp() })).toMatchObject({ ok: true });
    expect(await readdir(checkpoints)).toEqual([`checkpoint-${first.checkpointId}`]);
    expect((await stat(join(first.path, 'criu/pages-1.img'))).mode & 0o777).toBe(0o600);
  });

  it('tells container, image, processes and streams in the metadata, and where it came from', async () => {
    const { path } = await load(changed({}), { checkpointId: 'web', namespace: 'apps' });

    expect(await metadataOf(path)).toMatchObject({
      checkpointId: 'web',
      container: { id: CONTAINER, namespace: 'apps', runtime: 'runc', labels: { team: 'a' } },
      node: { arch: 'x86_64', kernel: 'unknown' },
      processes: [
        { nsPid: 1, command: 'sh' },
        { nsPid: 7, parentHostPid: 1, command: 'sleep' },
      ],
      stdio: { terminal: false, stdin: 'null', stdout: 'pipe' },
      origin: {
        format: 'podman',
        form: 'archive',
        image: { name: 'docker.io/library/web:1', configDigest: `sha256:${'ab'.repeat(32)}` },
        carried: ['ctr.log', 'network.status', 'stats-dump', 'volumes/v.tar'],
        missing: [],
      },
    });
  });

  it('gets a layer with its volumes and places for what Podman mounted, whiteouts and deleted files as a list', async () => {
    const { path } = await load(changed({}));
    const into = join(root, 'unpacked');
    execFileSync('mkdir', [into]);
    execFileSync('tar', ['--extract', `--file=${join(path, 'fs/rootfs-diff.tar')}`, `--directory=${into}`]);

    expect(await readFile(join(into, 'data/own'), 'utf8')).toBe('mine');
    expect(await readFile(join(into, 'kept/y'), 'utf8')).toBe('volume');
    expect((await stat(join(into, 'kept/again'))).ino).toBe((await stat(join(into, 'kept/y'))).ino);
    expect(await readFile(join(into, 'etc/hosts'), 'utf8')).toMatch(/127\.0\.0\.1\s+localhost/);
    expect((await stat(join(into, 'dev/shm'))).mode & 0o7777).toBe(0o1777);
    expect((await stat(into)).mode & 0o7777).toBe(0o555);
    expect(await readdir(join(into))).not.toContain('usr');
    expect(JSON.parse(await readFile(join(path, 'fs/deleted.files'), 'utf8'))).toEqual(['etc/old', 'usr/gone']);
  });

  it('keeps the sparse files that tar has packed', async () => {
    execFileSync('truncate', ['--size=3000000', join(root, 'holes')]);
    execFileSync(
      'dd',
      ['if=/dev/zero', `of=${join(root, 'holes')}`, 'bs=1000', 'count=1', 'seek=1500', 'conv=notrunc'],
      {
        stdio: 'ignore',
      },
    );
    execFileSync('tar', ['-C', root, '--create', '--sparse', '--format=posix', '--file', join(root, 'l.tar'), 'holes']);
    const layer = await readFile(join(root, 'l.tar'));
    expect(layer.length).toBeLessThan(100_000);

    const { path } = await load(changed({ 'rootfs-diff.tar': { content: layer } }));

    execFileSync('mkdir', [join(root, 'out')]);
    execFileSync('tar', ['-C', join(root, 'out'), '--extract', '--file', join(path, 'fs/rootfs-diff.tar')]);
    expect((await stat(join(root, 'out/holes'))).size).toBe(3_000_000);
  });

  it('gets a clean specification, every change is told, the original is kept', async () => {
    const { path, origin, warnings } = await load(changed({}));

    const spec = JSON.parse(await readFile(join(path, 'config.json'), 'utf8')) as ReturnType<typeof sampleSpec>;
    expect(spec).toMatchObject({
      root: { path: 'rootfs' },
      annotations: { 'user.own': 'kept' },
      linux: {
        cgroupsPath: `/default/${CONTAINER}`,
        maskedPaths: ['/proc/kcore'],
        readonlyPaths: ['/proc/not-of-this-kernel'],
      },
    });
    expect(spec).not.toHaveProperty('hooks');
    expect((spec['mounts'] as Array<{ source: string }>).map(({ source }) => source)).toEqual([
      'proc',
      'rootfs/etc/hosts',
      'rootfs/dev/shm',
      '/nowhere/kybernate',
      'rootfs/kept',
    ]);
    expect(origin?.specChanges.map(({ field }) => field)).toEqual([
      'root.path',
      'hooks',
      'linux.cgroupsPath',
      'mounts[/etc/hosts]',
      'mounts[/dev/shm]',
      'mounts[/kept]',
      'mounts[/proc/acpi]',
      'annotations[io.container.manager]',
      'linux.maskedPaths',
    ]);
    expect(warnings).toEqual([expect.stringContaining('/nowhere/kybernate')]);
    expect(JSON.parse(await readFile(join(path, 'origin/spec.dump'), 'utf8'))).toEqual(sampleSpec());
  });

  it('commands no runtime and names no directory of the node that root would unpack into', async () => {
    const spec = {
      ...sampleSpec(),
      annotations: {
        'org.criu.config': '/x/rootfs/evil.conf',
        'kybernate.io/restore-from': 'other',
        'user.own': 'kept',
      },
      mounts: [
        { destination: '/dev/shm', type: 'bind', source: '/etc/cron.d', options: ['bind'] },
        { destination: '/data', type: 'bind', source: 'rootfs/link', options: ['bind'] },
      ],
    };
    const { path } = await load(changed({ 'spec.dump': { content: JSON.stringify(spec) } }));

    const cleaned = JSON.parse(await readFile(join(path, 'config.json'), 'utf8')) as typeof spec;
    expect(cleaned.annotations).toEqual({ 'user.own': 'kept' });
    expect(cleaned.mounts.map(({ source }) => source)).toEqual(['rootfs/dev/shm']);
  });

  it('is told with what it may do to the node', async () => {
    const spec = {
      ...sampleSpec(),
      process: { args: ['sh'], capabilities: { bounding: ['CAP_KILL', 'CAP_SYS_ADMIN'] } },
      mounts: [
        { destination: '/host', type: 'bind', source: '/', options: ['rbind', 'rw'] },
        { destination: '/ro', type: 'bind', source: '/', options: ['rbind', 'ro'] },
      ],
      linux: {
        namespaces: [{ type: 'network' }, { type: 'ipc' }, { type: 'mount' }],
        resources: {
          devices: [
            { allow: false, access: 'rwm' },
            { allow: true, access: 'rwm' },
          ],
        },
      },
    };
    const bytes = changed({ 'spec.dump': { content: JSON.stringify(spec) } });

    const { warnings } = await load(bytes, { sourceKind: () => 'directory' });

    expect(warnings).toEqual([
      'its mount /host writes to / of the node',
      'its mount /ro reads / of the node',
      'it has capabilities that containers usually lack: CAP_SYS_ADMIN',
      'it shares namespaces with the node: pid',
      'it may use every device of the node',
    ]);
  });

  it('gets an empty place for a mount that is not here when that is asked for', async () => {
    const { path, warnings } = await load(changed({}), { missingMounts: 'empty' });

    expect(await readFile(join(path, 'config.json'), 'utf8')).toContain('"rootfs/srv"');
    expect(warnings).toEqual([]);
  });

  it.each(['rootfs-diff.tar', 'network.status', 'stats-dump'])('is taken without %s, which is told', async (name) => {
    const { warnings, origin } = await load(changed({ [name]: undefined }));

    expect(warnings).toContain(`the archive has no ${name}`);
    expect(origin?.missing).toEqual([name]);
  });

  it.each(['spec.dump', 'config.dump', 'checkpoint/inventory.img', 'checkpoint/pstree.img', 'checkpoint/core-7.img'])(
    'is refused without %s, by its name',
    async (name) => {
      await expect(load(changed({ [name]: undefined }))).rejects.toMatchObject({
        type: 'CheckpointCorrupt',
        message: expect.stringContaining(name) as string,
      });
      expect(await readdir(checkpoints)).toEqual([]);
    },
  );

  it('is refused where nobody may be trusted without a signature', async () => {
    const no = new Error('not signed');
    const request = { stream: streamOf(changed({})), checkpointsDir: checkpoints, op: testOp() };
    const foreign = { limits: DEFAULT_LIMITS, namespace: 'default', missingMounts: 'keep' } as const;
    const acceptForeign = (): never => {
      throw no;
    };

    await expect(importArchive({ ...request, foreign, acceptForeign })).rejects.toBe(no);
    await expect(readdir(checkpoints)).rejects.toThrow('ENOENT');
  });
});

describe("containerd's archive", PATIENT, () => {
  it('brings its diff packed, its pod in annotations and the digest of its image', async () => {
    const annotations = {
      'io.kubernetes.cri.container-name': 'app',
      'io.kubernetes.cri.sandbox-name': 'web-0',
      'io.kubernetes.cri.sandbox-namespace': 'prod',
    };
    const config = {
      id: CONTAINER,
      name: 'app',
      rootfsImageName: 'docker.io/library/web:1',
      rootfsImageRef: `sha256:${'cd'.repeat(32)}`,
      checkpointedTime: '2026-03-01T10:00:00Z',
    };
    const layer = tarOf([{ name: 'tmp/n', content: '7' }, { name: 'tmp/.wh.old' }, { name: 'var/.wh..wh..opq' }]);

    const { path } = await load(
      changed({
        'config.dump': { content: JSON.stringify(config) },
        'spec.dump': { content: JSON.stringify({ ...sampleSpec(), annotations, mounts: [] }) },
        'status.dump': { content: '{}' },
        'dump.log': { content: 'dumped' },
        'rootfs-diff.tar': { content: gzipSync(layer) },
        'volumes/v.tar': undefined,
        'deleted.files': undefined,
      }),
    );

    expect(await metadataOf(path)).toMatchObject({
      createdAt: '2026-03-01T10:00:00.000Z',
      container: { pod: { namespace: 'prod', name: 'web-0', container: 'app' } },
      origin: { format: 'containerd', image: { configDigest: `sha256:${'cd'.repeat(32)}` }, missing: [] },
    });
    expect(JSON.parse(await readFile(join(path, 'fs/deleted.files'), 'utf8'))).toEqual(['tmp/old', 'var']);
    expect(await readFile(join(path, 'logs/dump.log'), 'utf8')).toBe('dumped');
  });
});

const SPARSE = {
  'GNU.sparse.major': '1',
  'GNU.sparse.minor': '0',
  'GNU.sparse.name': 'a',
  'GNU.sparse.realsize': '1024',
};

function mapOf(text: string): Buffer {
  return Buffer.concat([Buffer.from(text), Buffer.alloc(512 - text.length)]);
}

const LONG = 'x'.repeat(300);
const DEEP = `${'['.repeat(50_000)}${']'.repeat(50_000)}`;
const HOSTILE: ReadonlyArray<readonly [what: string, archive: () => Buffer, why: RegExp]> = [
  ['a name that leads out', () => changed({ '../out': { content: 'x' } }), /"\.\.\/out"/],
  ['a name that leads out in the middle', () => changed({ 'a/../../out': { content: 'x' } }), /out/],
  ['an absolute name', () => changed({ '/tmp/kybernate-out': { content: 'x' } }), /absolute/],
  ['a symbolic link', () => changed({ 'checkpoint/x': { type: '2', link: '/etc/passwd' } }), /symlink/],
  ['a link to an earlier dump', () => changed({ 'checkpoint/parent': { type: '2', link: '../p' } }), /earlier dump/],
  ['a hard link', () => changed({ x: { type: '1', link: 'spec.dump' } }), /hardlink/],
  ['a character device', () => changed({ x: { type: '3' } }), /character device/],
  ['a block device', () => changed({ x: { type: '4' } }), /block device/],
  ['a pipe', () => changed({ x: { type: '6' } }), /fifo/],
  ['setuid', () => changed({ x: { content: '#!', mode: 0o4755 } }), /setuid/],
  ['a name twice', () => changed({}, [tarMember({ name: 'spec.dump', content: '{}' })]), /twice/],
  ['a file below a file', () => changed({ 'ctr.log/x': { content: 'x' } }), /below a file/],
  [
    'a part of a name that is too long',
    () => changed({}, [paxMember({ path: `a/${LONG}` }), tarMember({ name: 'a' })]),
    /255 bytes/,
  ],
  [
    'a name of more directories than there are',
    () => changed({}, [paxMember({ path: `${'d/'.repeat(300)}x` }), tarMember({ name: 'a' })]),
    /256 parts/,
  ],
  ['a name of a reserved file', () => changed({ 'metadata.json': { content: '{}' } }), /reserved/],
  [
    'two names for one file',
    () => changed({}, [paxMember({ path: 'a' }), paxMember({ path: 'b' }), tarMember({ name: 'c' })]),
    /two values/,
  ],
  ['a global header', () => changed({ g: { type: 'g', content: '12 path=xx\n' } }), /global header/],
  ['an old sparse file', () => changed({ s: { type: 'S' } }), /sparse/],
  [
    'a sparse map in pax',
    () => changed({}, [paxMember({ 'GNU.sparse.map': '0,1' }), tarMember({ name: 's' })]),
    /sparse/,
  ],
  ['a file with the name of a directory', () => changed({ 's/': { content: 'x' } }), /name of a directory/],
  ['a size that is none', () => changed({ s: { size: '77x' } }), /number/],
  [
    'a size below zero',
    () => changed({ s: { size: '\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff' } }),
    /number/,
  ],
  ['an unknown type', () => changed({ s: { type: 'Z' } }), /not known/],
  ['another format', () => changed({ s: { magic: 'notustar' } }), /unknown format/],
  ['a size beyond its end', () => changed({ s: { size: '77777777777' } }), /cut off|bytes/],
  ['spec.dump that is no JSON', () => changed({ 'spec.dump': { content: '{' } }), /spec\.dump is not JSON/],
  ['spec.dump that is a list', () => changed({ 'spec.dump': { content: '[]' } }), /no JSON object/],
  ['spec.dump of other kinds', () => changed({ 'spec.dump': { content: '{"mounts":7}' } }), /mounts/],
  ['deep JSON', () => changed({ 'config.dump': { content: DEEP } }), /deep/],
  ['no id', () => changed({ 'config.dump': { content: '{}' } }), /container id/],
  ['an id that is a path', () => changed({ 'config.dump': { content: '{"id":"../x"}' } }), /container id/],
  [
    'volumes that lead out',
    () =>
      changed({
        'config.dump': {
          content: JSON.stringify({ ...sampleConfig(), namedVolumes: [{ volumeName: 'v', dest: '/../x' }] }),
        },
      }),
    /leads out/,
  ],
  ['deleted.files that leads out', () => changed({ 'deleted.files': { content: '["/../etc"]' } }), /deleted\.files/],
  ['deleted.files that names the root', () => changed({ 'deleted.files': { content: '["/"]' } }), /deleted\.files/],
  ['an image that is none', () => changed({ 'checkpoint/pstree.img': { content: 'none' } }), /pstree/],
  [
    'an image that is cut',
    () => changed({ 'checkpoint/pstree.img': { content: criuImages()['pstree.img']?.subarray(0, 20) ?? '' } }),
    /cut off/,
  ],
  ['a layer whose name leads out', () => layerOf({ name: '../out' }), /out/],
  ['a layer with an absolute name', () => layerOf({ name: '/out' }), /absolute/],
  ['a layer whose root is a link', () => layerOf({ name: './', type: '2', link: '/etc' }), /root .* symlink/],
  ['a layer with a device', () => layerOf({ name: 'dev/mem', type: '3' }), /--allow-devices/],
  [
    'a layer whose link leads out',
    () => layerOf({ name: 'a', type: '1', link: '../../etc/shadow' }),
    /out of the archive/,
  ],
  [
    'a layer that goes through a link',
    () => layerOf({ name: 'a', type: '2', link: '/etc' }, { name: 'a/passwd' }),
    /leads through/,
  ],
  [
    'a layer with a link in the place of a mount',
    () => layerOf({ name: 'etc', type: '2', link: '/etc' }),
    /leads through/,
  ],
  ['a layer with a name twice', () => layerOf({ name: 'a' }, { name: 'a' }), /twice/],
  [
    'a layer that redirects overlayfs',
    () => layerOf(paxMember({ 'SCHILY.xattr.trusted.overlay.redirect': '/x' }), { name: 'a' }),
    /overlayfs/,
  ],
  [
    'a layer with a file that tar takes for a directory',
    () => layerOf({ name: 'a/', content: tarMember({ name: 'dev-mem', type: '3' }) }),
    /name of a directory/,
  ],
  [
    'a layer with a sparse file that eats the header behind it',
    () =>
      layerOf(
        paxMember(SPARSE),
        { name: 'a', content: Buffer.concat([mapOf('1\n0\n1024\n'), Buffer.alloc(512, 'd')]) },
        { name: 'b', content: tarMember({ name: 'dev-mem', type: '3' }) },
      ),
    /map does not fit/,
  ],
  ['a layer with a sparse directory', () => layerOf(paxMember(SPARSE), { name: 'a', type: '5' }), /sparse directory/],
  ['a layer that is none', () => changed({ 'rootfs-diff.tar': { content: 'no tar at all' } }), /cut off|header/],
];

describe('an archive is refused with', PATIENT, () => {
  it.each(HOSTILE)('%s', async (_, archive, why) => {
    const around = await readdir(tmpdir());

    const outcome: unknown = await load(archive()).catch((error: unknown) => error);

    expect(outcome).toMatchObject({ type: 'CheckpointCorrupt', message: expect.stringMatching(why) as string });
    expect(await readdir(checkpoints)).toEqual([]);
    expect(await readdir(root)).toEqual(['checkpoints']);
    expect((await readdir(tmpdir())).filter((name) => name.startsWith('kybernate-out'))).toEqual([]);
    expect(around.length).toBeGreaterThan(0);
  });

  it('more bytes, files or packing than the limits allow', async () => {
    const zeros = zstdCompressSync(changed({ big: { content: Buffer.alloc(80 * 2 ** 20) } }));
    const inner = changed({ 'rootfs-diff.tar': { content: gzipSync(Buffer.alloc(80 * 2 ** 20)) } });

    await expect(load(zeros)).rejects.toThrow('--max-ratio');
    await expect(load(inner, { limits: { ...DEFAULT_LIMITS, maxBytes: 2 ** 20 } })).rejects.toThrow(/header|--max/);
    await expect(load(changed({}), { limits: { ...DEFAULT_LIMITS, maxBytes: 10_000 } })).rejects.toThrow('--max-bytes');
    await expect(load(changed({}), { limits: { ...DEFAULT_LIMITS, maxFiles: 10 } })).rejects.toThrow('--max-files');
    const deep = changed({ [`${'d/'.repeat(48)}x`]: { content: 'x' } });
    await expect(load(deep, { limits: { ...DEFAULT_LIMITS, maxFiles: 60 } })).rejects.toThrow('--max-files');
    expect(await readdir(checkpoints)).toEqual([]);
  });

  it('nothing, zeros, text, or an end in the middle', async () => {
    const whole = changed({});
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(10_240), Buffer.from('#!/bin/sh\n'.repeat(200))]) {
      await expect(load(bytes)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    }
    await expect(load(Buffer.from('root:x:0:0:root:/root:/bin/bash\n'.repeat(40)))).rejects.toMatchObject({
      message: 'it is no archive of a checkpoint: it does not begin as one',
    });
    for (let length = 512; length < whole.length - 1024; length += 4999) {
      await expect(load(whole.subarray(0, length)), `${length}`).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    }
    await expect(load(zstdCompressSync(whole).subarray(0, -50))).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await readdir(checkpoints)).toEqual([]);
  });
});
