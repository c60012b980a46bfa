/* ls, inspect and rm against a real directory of checkpoints and a real store in a directory. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TimeoutFailure } from '@temporalio/common';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { ListCopiesResult } from '../../core/contract/list-copies.ts';
import { KybernateError } from '../../core/errors.ts';
import { takeLease } from '../../engine/restore-operation.ts';
import { openBackend } from '../../store/backend/open.ts';
import { describeCheckpoint } from '../../store/describe.ts';
import { acquireLease } from '../../store/lease.ts';
import { publishManifest } from '../../store/publish.ts';
import { verifyRemote } from '../../store/verify.ts';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import type { FakeCli, FakeCliOptions } from '../../test/harness/fake-cli.ts';
import { metadataOf } from '../../test/harness/stored-metadata.ts';
import { createCliOp } from '../cli-op.ts';
import { CliError } from '../exit-codes.ts';
import { run } from '../program.ts';

const op = createCliOp(() => undefined);
const OPERATION = '0123456789abcdef0123456789abcdef';
let root: string;
let storeUrl: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-ls-'));
  storeUrl = `file://${join(root, 'store')}`;
  await mkdir(join(root, 'store'));
});
afterEach(async () => {
  vi.useRealTimers();
  await rm(root, { recursive: true });
});

function cliHere(env: Record<string, string | undefined> = {}, options: FakeCliOptions = {}): FakeCli {
  return createFakeCli({
    ...options,
    env: {
      KYBERNATE_STATE_DIR: join(root, 'state'),
      KYBERNATE_RUN_DIR: join(root, 'run'),
      KYBERNATE_STORE: storeUrl,
      ...env,
    },
  });
}

function localDir(id: string): string {
  return join(root, 'state/checkpoints', `checkpoint-${id}`);
}

/** A committed checkpoint on this node. */
async function commit(
  id: string,
  fields: { createdAt?: string; pending?: boolean; metadata?: Partial<Metadata> } = {},
): Promise<void> {
  const dir = localDir(id);
  await mkdir(join(dir, 'criu'), { recursive: true });
  await writeFile(join(dir, 'config.json'), '{}');
  await writeFile(join(dir, 'criu/inventory.img'), `images of ${id} `.repeat(1000));
  const manifest = await describeCheckpoint(dir, op);
  await writeFile(join(dir, 'manifest.json'), `${JSON.stringify(manifest)}\n`);
  const metadata = metadataOf(id, fields.createdAt ?? '2026-03-01T09:30:00.000Z', manifest.merkleRoot);
  await writeFile(join(dir, 'metadata.json'), JSON.stringify({ ...metadata, ...fields.metadata }));
  if (fields.pending === true) {
    await writeFile(join(dir, 'upload.pending'), '');
  }
}

async function publish(id: string): Promise<void> {
  const backend = await openBackend(storeUrl);
  await publishManifest({ checkpointId: id, dir: localDir(id), backend, op });
  await backend.close();
}

/** In the order of their ages: of different labels, containers and nodes. */
async function commitThree(): Promise<void> {
  const { container, node, sizes } = metadataOf('', '', '');
  await commit('a-old', { createdAt: '2026-03-01T09:30:00.000Z', metadata: { sizes: { ...sizes, totalBytes: 9e9 } } });
  await commit('b-gold', {
    createdAt: '2026-03-03T09:30:00.000Z',
    metadata: { labels: { team: 'search', tier: 'gold' }, sizes: { ...sizes, totalBytes: 1 } },
  });
  await commit('c-web', {
    createdAt: '2026-03-04T09:30:00.000Z',
    metadata: { labels: {}, container: { ...container, id: 'web' }, node: { ...node, name: 'node-b' } },
  });
}

describe('ls', () => {
  it('shows both places as one list, newest first', async () => {
    await commit('a-local', { createdAt: '2026-03-01T09:30:00.000Z' });
    await commit('b-pending', { createdAt: '2026-03-03T09:30:00.000Z', pending: true });
    await commit('c-both', { createdAt: '2026-03-02T09:30:00.000Z' });
    await publish('c-both');
    await commit('d-remote', { createdAt: '2026-03-04T09:30:00.000Z' });
    await publish('d-remote');
    await rm(localDir('d-remote'), { recursive: true });
    const backend = await openBackend(storeUrl);
    await verifyRemote({ checkpointId: 'c-both', backend, op });
    const fake = cliHere();
    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2026-03-04T10:10:00Z') });

    expect(await run(['ls'], fake.cli)).toBe(0);

    // How many bytes a small pack has is not what this is about.
    expect(fake.stdout().replace(/\d{3} B {2}remote/, 'SIZE   remote'))
      .toBe(`CHECKPOINT  CONTAINER      NODE    CREATED (UTC)           AGE      SIZE  UNIQUE  DURABILITY  HERE  LABELS
d-remote    default/redis  node-a  2026-03-04 09:30:00  40 min  13.2 MiB   SIZE   remote      no    team=search
b-pending   default/redis  node-a  2026-03-03 09:30:00    24 h  13.2 MiB       -  pending     yes   team=search
c-both      default/redis  node-a  2026-03-02 09:30:00     2 d  13.2 MiB     0 B  verified    yes   team=search
a-local     default/redis  node-a  2026-03-01 09:30:00     3 d  13.2 MiB       -  local       yes   team=search
`);
    expect(fake.stderr()).toBe('');
  });

  it('shows with --all-nodes what only other nodes have, and names those that do not answer', async () => {
    await commit('a-here', { createdAt: '2026-03-01T09:30:00.000Z' });
    const copies = (node: string): ListCopiesResult => {
      if (node === 'node-c') {
        throw new KybernateError('NodeUnavailable', 'the worker of node node-c did not take the step listCopies');
      }
      const { container, labels } = metadataOf('', '', '');
      const there = { labels, container, takenOn: node, totalBytes: 5000, uploadPending: false };
      return {
        node,
        copies: [
          { ...there, checkpointId: 'b-there', createdAt: '2026-03-02T09:30:00.000Z', path: '/c/checkpoint-b-there' },
          { ...there, checkpointId: 'a-here', createdAt: '2026-03-01T09:30:00.000Z', path: '/c/checkpoint-a-here' },
        ],
        more: 7,
        damaged: [{ checkpointId: 'broken', reason: 'metadata.json is no JSON' }],
      };
    };
    const fake = cliHere({}, { nodes: ['node-a', 'node-b', 'node-c'], copies });

    expect(await run(['ls', '--all-nodes'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^b-there .* local +no +node-b +team=search$/m);
    expect(fake.stdout()).toMatch(/^a-here .* local +yes +node-b +team=search$/m);
    expect(fake.stderr()).toContain('note: what node-c has is not shown: the worker of node node-c did not take');
    expect(fake.stderr()).toContain('note: broken on node-b: metadata.json is no JSON');
    expect(fake.stderr()).toContain('note: node-b has 7 older copies that are not shown');
    expect(fake.exitCode()).toBeUndefined();
    const json = cliHere({}, { nodes: ['node-b'], copies });
    expect(await run(['ls', '--all-nodes', '--json', '--sort', 'id'], json.cli)).toBe(0);
    const { checkpoints } = JSON.parse(json.stdout()) as { checkpoints: unknown[] };
    expect(checkpoints).toMatchObject([
      { checkpointId: 'a-here', elsewhere: [{ node: 'node-b', path: '/c/checkpoint-a-here' }] },
      { checkpointId: 'b-there', durability: 'local', elsewhere: [{ node: 'node-b', path: '/c/checkpoint-b-there' }] },
    ]);
  });

  it('with --all-nodes bounds the wait for an answer, and names the nodes whose question nobody took up', async () => {
    await commit('a-here');
    const copies = (): never => {
      const cause = new TimeoutFailure('Workflow execution timed out', undefined, 'START_TO_CLOSE');
      throw new Error('Workflow execution timed out', { cause });
    };
    const fake = cliHere({}, { nodes: ['node-b'], copies });

    expect(await run(['ls', '--all-nodes'], fake.cli)).toBe(0);

    const [, , start] = fake.calls.find(([name]) => name === 'listCopies') ?? [];
    expect(start).toEqual({ executionTimeoutMs: 15_000 });
    expect(fake.stdout()).toContain('a-here');
    expect(fake.stderr()).toContain(
      'note: what node-b has is not shown: no answer within 15 s; look whether a control',
    );
  });

  it('shows what is near and says so by its exit code when Temporal cannot be reached for --all-nodes', async () => {
    await commit('a-here');
    const fake = cliHere();
    const connect = (): Promise<never> =>
      Promise.reject(new CliError('TemporalUnreachable', 'no connection to the Temporal server at localhost:7233'));

    expect(await run(['ls', '--all-nodes'], { ...fake.cli, connect })).toBe(0);

    expect(fake.stdout()).toContain('a-here');
    expect(fake.stderr()).toContain('note: what other nodes have is not shown: no connection');
    expect(fake.exitCode()).toBe(69);
  });

  it('shows the same as JSON', async () => {
    await commit('one');
    await publish('one');
    const fake = cliHere();

    expect(await run(['ls', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toEqual({
      checkpoints: [
        {
          checkpointId: 'one',
          container: { namespace: 'default', id: 'redis' },
          node: 'node-a',
          createdAt: '2026-03-01T09:30:00.000Z',
          totalBytes: 13_841_203,
          durability: 'remote',
          labels: { team: 'search' },
          localPath: localDir('one'),
          remote: `${storeUrl}/checkpoints/one/manifest.json`,
          publishedAt: expect.stringMatching(/Z$/) as string,
          storedBytes: expect.any(Number) as number,
          uniqueBytes: expect.any(Number) as number,
        },
      ],
      problems: [],
    });
  });

  it('makes no store that is not there, says so, and calls no checkpoint local that it may have', async () => {
    await commit('a-here');
    await commit('b-pending', { pending: true });
    const typo = join(root, 'typo');
    const json = cliHere();
    const text = cliHere();

    expect(await run(['ls', '--store', `file://${typo}`, '--sort', 'id', '--json'], json.cli)).toBe(0);
    expect(await run(['ls', '--store', `file://${typo}`], text.cli)).toBe(0);

    expect(JSON.parse(json.stdout())).toMatchObject({
      checkpoints: [{ durability: 'unknown' }, { durability: 'pending' }],
      problems: [expect.stringContaining(`there is no store at file://${typo}`)],
    });
    expect(text.stdout()).toMatch(/^a-here .* unknown +yes /m);
    expect(text.stderr()).toContain(`note: the store is not shown: there is no store at file://${typo}`);
    expect([json.exitCode(), text.exitCode()]).toEqual([17, 17]);
    expect(await readdir(root)).not.toContain('typo');
  });

  it('leaves an empty directory as it is', async () => {
    const fake = cliHere();

    expect(await run(['ls'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe('no checkpoints\n');
    expect(await readdir(join(root, 'store'))).toEqual([]);
  });

  it('lists nothing half-made, and says what is damaged', async () => {
    await commit('whole');
    await commit('half');
    await rm(join(localDir('half'), 'metadata.json'));
    await commit('damaged');
    await writeFile(join(localDir('damaged'), 'metadata.json'), '{');
    const fake = cliHere();

    expect(await run(['ls', '--json'], fake.cli)).toBe(0);

    const { checkpoints, problems } = JSON.parse(fake.stdout()) as {
      checkpoints: Array<{ checkpointId: string }>;
      problems: string[];
    };
    expect(checkpoints.map((row) => row.checkpointId)).toEqual(['whole']);
    expect(problems).toEqual([expect.stringMatching(/^damaged on this node: .*damaged/)]);
  });

  it('is empty on a fresh node, and says that no store is configured', async () => {
    const fake = cliHere({ KYBERNATE_STORE: undefined });

    expect(await run(['ls'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe('no checkpoints\n');
    expect(fake.stderr()).toContain('no store is configured');
  });

  it.each<[string, string[], string[]]>([
    ['with all of the labels', ['--label', 'team=search', '--label', 'tier=gold'], ['b-gold']],
    ['of a container', ['--container', 'web'], ['c-web']],
    ['of a container with its namespace', ['--container', 'default/redis'], ['b-gold', 'a-old']],
    ['of a node', ['--node', 'node-b'], ['c-web']],
    ['older than a time', ['--older-than', '2d'], ['a-old']],
    ['as many as are wanted', ['--limit', '2'], ['c-web', 'b-gold']],
    ['in another order', ['--sort', 'id'], ['a-old', 'b-gold', 'c-web']],
    ['the largest first', ['--sort', 'size'], ['a-old', 'c-web', 'b-gold']],
  ])('shows only those %s', async (_, flags, expected) => {
    await commitThree();
    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2026-03-04T12:00:00Z') });
    const fake = cliHere();

    expect(await run(['ls', '--json', ...flags], fake.cli)).toBe(0);

    const { checkpoints } = JSON.parse(fake.stdout()) as { checkpoints: Array<{ checkpointId: string }> };
    expect(checkpoints.map(({ checkpointId }) => checkpointId)).toEqual(expected);
  });

  it.each([
    ['--limit', '0'],
    ['--older-than', '7'],
    ['--sort', 'age'],
    ['--label', 'x'],
  ])('refuses %s %s', async (...flags) => {
    expect(await run(['ls', ...flags], cliHere().cli)).toBe(2);
  });

  it('refuses a store address that is none', async () => {
    expect(await run(['ls', '--store', '/srv/store'], cliHere().cli)).toBe(2);
  });
});

describe('inspect', () => {
  it('shows a summary', async () => {
    await commit('one');
    const fake = cliHere({ KYBERNATE_STORE: undefined });

    expect(await run(['inspect', 'one', '--files'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^checkpoint +one\n/);
    expect(fake.stdout()).toMatch(/\ncapture +engine runc, method criu, tcp keep, after: resume\n/);
    expect(fake.stdout()).toMatch(/\nnot captured +\/data \(bind from \/srv\/data\)\n/);
    expect(fake.stdout()).toMatch(/\n +1 +4711 +4700 +6 +redis-server\n/);
    expect(fake.stdout()).toMatch(/\n *13\.7 KiB {2}criu\/inventory\.img\n/);
  });

  it('shows what this node has, with a remark, while the store cannot be read', async () => {
    await commit('one');
    const store = { KYBERNATE_STORE: `file://${join(root, 'no-store')}` };
    const [text, json, elsewhere] = [cliHere(store), cliHere(store), cliHere(store)];

    expect(await run(['inspect', 'one'], text.cli)).toBe(0);
    expect(await run(['inspect', 'one', '--files', '--json'], json.cli)).toBe(0);
    expect(await run(['inspect', 'other'], elsewhere.cli)).toBe(17);

    expect(text.stdout()).toMatch(/\ndurability +unknown\n/);
    expect(text.stderr()).toContain('note: the store was not looked at: ');
    expect(JSON.parse(json.stdout())).toMatchObject({
      durability: 'unknown',
      warnings: [expect.stringContaining('no-store')],
      files: expect.arrayContaining([{ path: 'criu/inventory.img', bytes: expect.any(Number) }]),
    });
  });

  it('shows the GPUs and the VRAM of each process', async () => {
    const uuid = 'GPU-11111111-2222-3333-4444-555555555555';
    const { capture } = metadataOf('gpu', '', '');
    const metadata: Partial<Metadata> = {
      capture: { ...capture, phases: { ...capture.phases, gpuPauseMs: 4210 } },
      processes: [
        { hostPid: 4711, nsPid: 1, parentHostPid: 4700, command: 'sh', threads: 1 },
        { hostPid: 4712, nsPid: 7, parentHostPid: 4711, command: 'python3', threads: 9 },
      ],
      gpuProcesses: [{ hostPid: 4712, nsPid: 7, vramBytes: 8_589_934_592, devices: [uuid], visible: [uuid] }],
      gpu: {
        driver: '580.82.07',
        devices: [
          {
            uuid,
            name: 'NVIDIA H100',
            minor: 3,
            memoryTotalBytes: 85_899_345_920,
            computeCapability: '9.0',
            usedBytes: 8_589_934_592,
          },
        ],
      },
    };
    await commit('gpu', { metadata });
    const fake = cliHere({ KYBERNATE_STORE: undefined });

    expect(await run(['inspect', 'gpu'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/\nGPU pause +4\.21 s\nGPU driver +580\.82\.07\n/);
    expect(fake.stdout()).toMatch(/\n +1 +4711 +4700 +1 +- +sh\n +7 +4712 +4711 +9 +8\.00 GiB +python3\n/);
    expect(fake.stdout()).toMatch(/\n +3 +GPU-11111111-\S+ +NVIDIA H100 +9\.0 +8\.00 GiB +80\.00 GiB\n/);
  });

  it('reads metadata and files from the store when the node has none', async () => {
    await commit('one');
    await publish('one');
    await rm(localDir('one'), { recursive: true });
    const fake = cliHere();

    expect(await run(['inspect', 'one', '--files', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toMatchObject({
      metadata: { checkpointId: 'one' },
      durability: 'remote',
      remote: `${storeUrl}/checkpoints/one/manifest.json`,
      files: [
        { path: 'config.json', bytes: 2 },
        { path: 'criu/inventory.img', bytes: 14_000 },
      ],
    });
  });

  it('tells when it was verified', async () => {
    await commit('one');
    await publish('one');
    const backend = await openBackend(storeUrl);
    await verifyRemote({ checkpointId: 'one', backend, op });
    const fake = cliHere();

    expect(await run(['inspect', 'one'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/\ndurability +verified\nverified +20\d\d-.* UTC\n/);
  });

  it('ends with 5 for an id that is nowhere', async () => {
    const fake = cliHere();

    expect(await run(['inspect', 'none', '--json'], fake.cli)).toBe(5);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'CheckpointNotFound' } });
  });

  it('refuses a store that is not there, and makes none', async () => {
    const typo = join(root, 'typo');
    const fake = cliHere({ KYBERNATE_STORE: `file://${typo}` });

    expect(await run(['inspect', 'none', '--json'], fake.cli)).toBe(17);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'StorageUnavailable' } });
    expect(await readdir(root)).not.toContain('typo');
  });

  it('refuses an id that could leave the directory', async () => {
    expect(await run(['inspect', '../x'], cliHere().cli)).toBe(2);
  });
});

describe('rm', () => {
  async function places(id: string): Promise<{ local: boolean; store: boolean }> {
    const backend = await openBackend(storeUrl);
    const store = (await backend.head(`checkpoints/${id}/manifest.json`)) !== undefined;
    await backend.close();
    const names = await readdir(join(root, 'state/checkpoints'));
    return { local: names.includes(`checkpoint-${id}`), store };
  }

  it.each<[string, string[], { local: boolean; store: boolean }]>([
    ['from both places', [], { local: false, store: false }],
    ['only from this node', ['--local'], { local: false, store: true }],
    ['only from the store', ['--store'], { local: true, store: false }],
    ['from both when both are named', ['--local', '--store'], { local: false, store: false }],
  ])('removes %s', async (_, flags, left) => {
    await commit('one');
    await publish('one');

    expect(await run(['rm', 'one', ...flags], cliHere().cli)).toBe(0);

    expect(await places('one')).toEqual(left);
  });

  it('removes several, and says what is gone when one is not there', async () => {
    await commit('one');
    const fake = cliHere();

    expect(await run(['rm', 'one', 'none'], fake.cli)).toBe(5);

    expect(fake.stderr()).toContain('removed one from this node\n');
    expect(fake.stderr()).toContain('no checkpoint none');
  });

  it('removes nothing when an id is malformed', async () => {
    await commit('one');

    expect(await run(['rm', 'one', '../x'], cliHere().cli)).toBe(2);

    expect(await places('one')).toMatchObject({ local: true });
  });

  it.each<[string, () => Promise<void>]>([
    [
      'a restore on this node uses it',
      async () => takeLease({ runDir: join(root, 'run'), stateDir: root }, 'one', OPERATION),
    ],
    ['its upload is pending', () => writeFile(join(localDir('one'), 'upload.pending'), '')],
    [
      'somebody reads it from the store',
      async () => {
        const backend = await openBackend(storeUrl);
        (await acquireLease(backend, { id: 'read-x', purpose: 'read', checkpointId: 'one' }, op)).stop();
        await backend.close();
      },
    ],
  ])('refuses while %s, and leaves the local copy', async (_, use) => {
    await commit('one');
    await use();
    const fake = cliHere();

    expect(await run(['rm', 'one', '--json'], fake.cli)).toBe(67);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'CheckpointInUse' } });
    expect(await readdir(join(root, 'state/checkpoints'))).toEqual(['checkpoint-one']);
  });

  it('removes with --force what is in use', async () => {
    await commit('one', { pending: true });
    takeLease({ runDir: join(root, 'run'), stateDir: root }, 'one', OPERATION);

    expect(await run(['rm', 'one', '--force'], cliHere().cli)).toBe(0);

    expect(await places('one')).toEqual({ local: false, store: false });
  });

  it.each<[string, { interactive?: boolean; answer?: string }, string[], number, string[]]>([
    ['that filters mean, with --yes', {}, ['--yes'], 0, ['c-web']],
    ['after a yes', { interactive: true, answer: 'y' }, [], 0, ['c-web']],
    ['not after another answer', { interactive: true, answer: '' }, [], 130, ['a-old', 'b-gold', 'c-web']],
    ['not where nobody can be asked', {}, [], 2, ['a-old', 'b-gold', 'c-web']],
    ['not on behalf of a program', { interactive: true, answer: 'y' }, ['--json'], 2, ['a-old', 'b-gold', 'c-web']],
    ['none with --dry-run', {}, ['--dry-run'], 0, ['a-old', 'b-gold', 'c-web']],
  ])('removes those %s', async (_, options, flags, exitCode, left) => {
    await commitThree();
    const fake = cliHere({}, options);

    expect(await run(['rm', '--label', 'team=search', ...flags], fake.cli)).toBe(exitCode);

    expect((await readdir(join(root, 'state/checkpoints'))).sort()).toEqual(left.map((id) => `checkpoint-${id}`));
  });

  it('removes several from the store at once, and passes over what is in use', async () => {
    await commitThree();
    await publish('a-old');
    await publish('b-gold');
    await publish('c-web');
    await writeFile(join(localDir('b-gold'), 'upload.pending'), '');
    const fake = cliHere();

    expect(await run(['rm', '--older-than', '1ms', '--yes'], fake.cli)).toBe(0);

    expect(await places('a-old')).toEqual({ local: false, store: false });
    expect(await places('b-gold')).toEqual({ local: true, store: true });
    expect(await places('c-web')).toEqual({ local: false, store: false });
    expect(fake.stderr()).toContain('b-gold stays: it is not in the store yet');
  });

  it('tells which it kept, and ends as by its id when it kept all', async () => {
    await commit('one');
    const backend = await openBackend(storeUrl);
    (await acquireLease(backend, { id: 'read-x', purpose: 'read', checkpointId: 'one' }, op)).stop();
    await backend.close();
    const all = cliHere();
    const named = cliHere();

    expect(await run(['rm', '--label', 'team=search', '--yes', '--json'], all.cli)).toBe(0);
    expect(await run(['rm', 'one', '--json'], named.cli)).toBe(67);

    const why = expect.stringMatching(/^the store has a lease on it: read until /) as string;
    expect(JSON.parse(all.stdout())).toEqual({ removed: [], kept: [{ checkpointId: 'one', why }] });
    expect(all.exitCode()).toBe(67);
    const remedy = expect.stringMatching(/^wait until the read is over \(if its process died: until 20\d\d-/) as string;
    expect(JSON.parse(named.stdout())).toMatchObject({ error: { remedy } });
    expect(await places('one')).toMatchObject({ local: true });
  });

  it('keeps both copies while a restore on this node uses one', async () => {
    await commit('one');
    await publish('one');
    takeLease({ runDir: join(root, 'run'), stateDir: root }, 'one', OPERATION);

    expect(await run(['rm', 'one'], cliHere().cli)).toBe(67);

    expect(await places('one')).toEqual({ local: true, store: true });
  });

  it('finds with --dry-run what it would find without', async () => {
    await commit('one');
    const fake = cliHere();

    expect(await run(['rm', 'none', '--dry-run'], cliHere().cli)).toBe(5);
    expect(await run(['rm', 'one', '--store', '--dry-run'], cliHere().cli)).toBe(5);
    expect(await run(['rm', 'one', '--dry-run'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe('would remove one\n');
    expect(await places('one')).toMatchObject({ local: true });
  });

  it.each<[string, string[]]>([
    ['neither ids nor filters', []],
    ['both', ['one', '--node', 'node-a']],
  ])('refuses %s', async (_, args) => {
    await commit('one');

    expect(await run(['rm', ...args, '--yes'], cliHere().cli)).toBe(2);

    expect(await places('one')).toMatchObject({ local: true });
  });

  it('takes away what an interrupted removal left', async () => {
    await commit('one');
    await mkdir(join(root, 'state/checkpoints/removing-one/criu'), { recursive: true });

    expect(await run(['rm', 'one'], cliHere().cli)).toBe(0);

    expect(await readdir(join(root, 'state/checkpoints'))).toEqual([]);
  });
});
