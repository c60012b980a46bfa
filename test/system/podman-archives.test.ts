/* Checkpoints go from Podman to us and from us to Podman, and the ecosystem's own tool reads ours. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { Podman } from '../harness/podman.ts';
import { runCli, runCliJson } from '../harness/run-cli.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';

const COUNTER = [
  '/bin/sh',
  '-c',
  'i=0; echo mine > /data/own; rm /bin/vi; echo volume > /kept/y; echo shm > /dev/shm/x; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done',
];

let stack: Stack;
let podman: Podman;
let dir = '';

beforeAll(async () => {
  stack = await Stack.open();
  dir = mkdtempSync(join(tmpdir(), 'kyb-pod-'));
  podman = new Podman(join(dir, 'p'));
  const image = join(dir, 'image.tar');
  await stack.ctr('images', 'export', '--local', image, BUSYBOX);
  await podman.run('load', '--input', image);
});
afterAll(async () => {
  await podman.close();
  rmSync(dir, { recursive: true, force: true });
  await stack.close();
});

/** What a counter has got to; the moment between the emptying of its file and the writing passes. */
async function counted(read: (path: string) => Promise<string>): Promise<number> {
  let count = 0;
  await until('a number in the file', async () => {
    count = Number(await read('/tmp/n').catch(() => ''));
    return count > 0;
  });
  return count;
}

const inOurs =
  (id: string) =>
  (path: string): Promise<string> =>
    stack.read(id, path);
const inPodman =
  (name: string) =>
  (path: string): Promise<string> =>
    podman.run('exec', name, '/bin/cat', path);

interface ImportedJson {
  readonly checkpointId: string;
  readonly path: string;
  readonly origin: { readonly format: string; readonly specChanges: ReadonlyArray<{ readonly field: string }> };
  readonly warnings: readonly string[];
}

test('what Podman exported is imported, and a container of containerd goes on where it stood', async () => {
  await podman.start('source', BUSYBOX, COUNTER, ['--volume', 'kept:/kept']);
  await until('the counter to move', async () => (await counted(inPodman('source'))) > 5);
  const archive = join(dir, 'source.tar.zst');
  await podman.run('container', 'checkpoint', '--export', archive, 'source');
  await podman.run('rm', 'source');
  await podman.run('volume', 'rm', 'kept');

  const imported = await runCliJson<ImportedJson>(stack.variables, 'import', archive, '--id', 'from-podman');
  await stack.restore('from-podman', 'back');

  const first = await counted(inOurs('back'));
  expect(first).toBeGreaterThan(5);
  await until('the counter to go on', async () => (await counted(inOurs('back'))) > first);
  expect((await stack.read('back', '/data/own')).trim()).toBe('mine');
  expect((await stack.read('back', '/dev/shm/x')).trim()).toBe('shm');
  expect((await stack.read('back', '/kept/y')).trim()).toBe('volume');
  await expect(stack.read('back', '/bin/vi')).rejects.toThrow();
  expect(imported.origin.format).toBe('podman');
  expect(imported.origin.specChanges.map(({ field }) => field)).toEqual(
    expect.arrayContaining([
      'root.path',
      'linux.cgroupsPath',
      'mounts[/etc/hosts]',
      'mounts[/dev/shm]',
      'mounts[/kept]',
    ]),
  );
});

test("checkpointctl tells the same of Podman's archive and of our export of it", async () => {
  const theirs = join(dir, 'source.tar.zst');
  const ours = join(dir, 'again.tar.zst');
  await runCliJson(stack.variables, 'export', 'from-podman', '--format', 'podman', '-o', ours);

  const [before, after] = [await shown(theirs), await shown(ours)];
  const inspected = async (file: string): Promise<unknown> => {
    const [found] = JSON.parse(await checkpointctl('inspect', '--all', '--format', 'json', file)) as [
      { checkpoint_size: object },
    ];
    // Our layer has the files that Podman mounts, too.
    return { ...found, checkpoint_size: { ...found.checkpoint_size, root_fs_diff_size: 0 } };
  };

  expect({ ...after, 'ROOT FS DIFF SIZE': '' }).toEqual({ ...before, 'ROOT FS DIFF SIZE': '' });
  expect(Object.values(before).every((value) => value !== '')).toBe(true);
  expect(await inspected(ours)).toEqual(await inspected(theirs));
  const kubelets = join(dir, 'checkpoint-web-0_prod-app-2026-03-01T10:00:00Z.tar');
  copyFileSync(ours, kubelets);
  expect(await checkpointctl('list', dir)).toContain('Podman');
});

test('Podman takes back by way of us what it has exported, its volume included', async () => {
  await podman.run('container', 'restore', '--import', join(dir, 'again.tar.zst'));

  const read = inPodman('source');
  const first = await counted(read);
  await until('the counter to go on', async () => (await counted(read)) > first);
  expect(first).toBeGreaterThan(5);
  expect(await read('/kept/y')).toBe('volume');
  expect(await read('/data/own')).toBe('mine');
  await expect(read('/bin/vi')).rejects.toThrow();
  await podman.run('rm', '--force', '--time', '0', 'source');
  await podman.run('volume', 'rm', 'kept');
});

test('a checkpoint image that Podman pushed to an OCI layout is imported, and a damaged one refused', async () => {
  await podman.start('imaged', BUSYBOX, COUNTER, ['--volume', 'kept:/kept']);
  await until('the counter to move', async () => (await counted(inPodman('imaged'))) > 5);
  const archive = join(dir, 'imaged.tar');
  await podman.run('container', 'checkpoint', '--compress', 'none', '--export', archive, 'imaged');
  // An image from scratch with the archive as its layer: what --create-image makes, which wants the host's policy.json.
  await podman.run('import', archive, 'localhost/imaged:1');
  const layout = join(dir, 'layout');
  await podman.run('push', 'localhost/imaged:1', `oci:${layout}:one`);

  const imported = await runCliJson<ImportedJson>(stack.variables, 'import', `${layout}:one`, '--id', 'from-image');
  await stack.restore('from-image', 'image-back');

  const first = await counted(inOurs('image-back'));
  await until('the counter to go on', async () => (await counted(inOurs('image-back'))) > first);
  expect(first).toBeGreaterThan(5);
  expect(imported.origin).toMatchObject({ format: 'podman', form: 'oci-image' });
  const blobs = join(layout, 'blobs/sha256');
  const layer =
    readdirSync(blobs).sort((a, b) => statSync(join(blobs, b)).size - statSync(join(blobs, a)).size)[0] ?? '';
  const bytes = readFileSync(join(blobs, layer));
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  writeFileSync(join(blobs, layer), bytes);
  const again = await runCli(stack.variables, 'import', layout, '--id', 'damaged');
  expect(again.exitCode).toBe(15);
});

/** `checkpointctl` prints one table; the cells of its row by the names of its columns. */
async function shown(...files: string[]): Promise<Record<string, string>> {
  const lines = (await checkpointctl('show', ...files)).split('\n');
  const rule = lines.findIndex((line) => /^-+\s+-+/.test(line));
  const starts = [...(lines[rule] ?? '').matchAll(/-+/g)].map(({ index }) => index);
  const cells = (line: string): string[] => starts.map((start, at) => line.slice(start, starts[at + 1]).trim());
  const [names, values] = [cells(lines[rule - 1] ?? ''), cells(lines[rule + 1] ?? '')];
  return Object.fromEntries(names.map((name, at) => [name, values[at] ?? '']));
}

async function checkpointctl(...args: string[]): Promise<string> {
  const result = await runExeca(requireProgram('checkpointctl', process.env), args, { timeoutMs: 30_000 });
  expect(result.exitCode, result.stderr).toBe(0);
  return result.stdout;
}

test('what we took of a container of containerd is read by checkpointctl, and goes on in Podman', async () => {
  await stack.runContainer('ours', BUSYBOX, [
    '/bin/sh',
    '-c',
    'echo mine > /data/own; rm /bin/vi; echo shm > /dev/shm/x; i=0; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done',
  ]);
  await until('the counter to move', async () => (await counted(inOurs('ours'))) > 5);
  const { checkpointId } = await stack.checkpoint('ours', { after: 'stop' });
  await stack.removeContainer('ours');
  const archive = join(dir, 'ours.tar.zst');

  const env = stack.variables;
  const exported = await runCliJson<{ warnings: string[] }>(
    env,
    'export',
    checkpointId,
    '--format',
    'podman',
    '-o',
    archive,
  );
  await podman.run('container', 'restore', '--import', archive, '--name', 'theirs');

  const read = inPodman('theirs');
  const first = await counted(read);
  await until('the counter to go on', async () => (await counted(read)) > first);
  expect(first).toBeGreaterThan(5);
  expect(first).toBeLessThan(2000);
  expect(await read('/data/own')).toBe('mine');
  expect(await read('/dev/shm/x')).toBe('shm');
  await expect(read('/bin/vi')).rejects.toThrow();
  expect(exported.warnings).toEqual([]);
  expect(await shown(archive)).toMatchObject({ CONTAINER: 'ours', IMAGE: BUSYBOX, ENGINE: 'Podman', RUNTIME: 'runc' });
});
