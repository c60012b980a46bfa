/* `ls` against a real directory of checkpoints and a real store in a directory. */
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TimeoutFailure } from '@temporalio/common';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ListCopiesResult } from '../../core/contract/list-copies.ts';
import { KybernateError } from '../../core/errors.ts';
import { openBackend } from '../../store/backend/open.ts';
import { verifyRemote } from '../../store/verify.ts';
import { CheckpointPlaces, op } from '../../test/harness/checkpoint-places.ts';
import { metadataOf } from '../../test/harness/stored-metadata.ts';
import { CliError } from '../exit-codes.ts';
import { run } from '../program.ts';

const here = new CheckpointPlaces();
beforeEach(() => here.make());
afterEach(async () => {
  vi.useRealTimers();
  await here.remove();
});

describe('ls', () => {
  it('shows both places as one list, newest first', async () => {
    await here.commit('a-local', { createdAt: '2026-03-01T09:30:00.000Z' });
    await here.commit('b-pending', { createdAt: '2026-03-03T09:30:00.000Z', pending: true });
    await here.commit('c-both', { createdAt: '2026-03-02T09:30:00.000Z' });
    await here.publish('c-both');
    await here.commit('d-remote', { createdAt: '2026-03-04T09:30:00.000Z' });
    await here.publish('d-remote');
    await rm(here.localDir('d-remote'), { recursive: true });
    const backend = await openBackend(here.storeUrl);
    await verifyRemote({ checkpointId: 'c-both', backend, op });
    const fake = here.cli();
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
    await here.commit('a-here', { createdAt: '2026-03-01T09:30:00.000Z' });
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
    const fake = here.cli({}, { nodes: ['node-a', 'node-b', 'node-c'], copies });

    expect(await run(['ls', '--all-nodes'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^b-there .* local +no +node-b +team=search$/m);
    expect(fake.stdout()).toMatch(/^a-here .* local +yes +node-b +team=search$/m);
    expect(fake.stderr()).toContain('note: what node-c has is not shown: the worker of node node-c did not take');
    expect(fake.stderr()).toContain('note: broken on node-b: metadata.json is no JSON');
    expect(fake.stderr()).toContain('note: node-b has 7 older copies that are not shown');
    expect(fake.exitCode()).toBeUndefined();
    const json = here.cli({}, { nodes: ['node-b'], copies });
    expect(await run(['ls', '--all-nodes', '--json', '--sort', 'id'], json.cli)).toBe(0);
    const { checkpoints } = JSON.parse(json.stdout()) as { checkpoints: unknown[] };
    expect(checkpoints).toMatchObject([
      { checkpointId: 'a-here', elsewhere: [{ node: 'node-b', path: '/c/checkpoint-a-here' }] },
      { checkpointId: 'b-there', durability: 'local', elsewhere: [{ node: 'node-b', path: '/c/checkpoint-b-there' }] },
    ]);
  });

  it('with --all-nodes bounds the wait for an answer, and names the nodes whose question nobody took up', async () => {
    await here.commit('a-here');
    const copies = (): never => {
      const cause = new TimeoutFailure('Workflow execution timed out', undefined, 'START_TO_CLOSE');
      throw new Error('Workflow execution timed out', { cause });
    };
    const fake = here.cli({}, { nodes: ['node-b'], copies });

    expect(await run(['ls', '--all-nodes'], fake.cli)).toBe(0);

    const [, , start] = fake.calls.find(([name]) => name === 'listCopies') ?? [];
    expect(start).toEqual({ executionTimeoutMs: 15_000 });
    expect(fake.stdout()).toContain('a-here');
    expect(fake.stderr()).toContain(
      'note: what node-b has is not shown: no answer within 15 s; look whether a control',
    );
  });

  it('shows what is near and says so by its exit code when Temporal cannot be reached for --all-nodes', async () => {
    await here.commit('a-here');
    const fake = here.cli();
    const connect = (): Promise<never> =>
      Promise.reject(new CliError('TemporalUnreachable', 'no connection to the Temporal server at localhost:7233'));

    expect(await run(['ls', '--all-nodes'], { ...fake.cli, connect })).toBe(0);

    expect(fake.stdout()).toContain('a-here');
    expect(fake.stderr()).toContain('note: what other nodes have is not shown: no connection');
    expect(fake.exitCode()).toBe(69);
  });

  it('shows the same as JSON', async () => {
    await here.commit('one');
    await here.publish('one');
    const fake = here.cli();

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
          localPath: here.localDir('one'),
          remote: `${here.storeUrl}/checkpoints/one/manifest.json`,
          publishedAt: expect.stringMatching(/Z$/) as string,
          storedBytes: expect.any(Number) as number,
          uniqueBytes: expect.any(Number) as number,
        },
      ],
      problems: [],
    });
  });

  it('makes no store that is not there, says so, and calls no checkpoint local that it may have', async () => {
    await here.commit('a-here');
    await here.commit('b-pending', { pending: true });
    const typo = join(here.root, 'typo');
    const json = here.cli();
    const text = here.cli();

    expect(await run(['ls', '--store', `file://${typo}`, '--sort', 'id', '--json'], json.cli)).toBe(0);
    expect(await run(['ls', '--store', `file://${typo}`], text.cli)).toBe(0);

    expect(JSON.parse(json.stdout())).toMatchObject({
      checkpoints: [{ durability: 'unknown' }, { durability: 'pending' }],
      problems: [expect.stringContaining(`there is no store at file://${typo}`)],
    });
    expect(text.stdout()).toMatch(/^a-here .* unknown +yes /m);
    expect(text.stderr()).toContain(`note: the store is not shown: there is no store at file://${typo}`);
    expect([json.exitCode(), text.exitCode()]).toEqual([17, 17]);
    expect(await readdir(here.root)).not.toContain('typo');
  });

  it('leaves an empty directory as it is', async () => {
    const fake = here.cli();

    expect(await run(['ls'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe('no checkpoints\n');
    expect(await readdir(join(here.root, 'store'))).toEqual([]);
  });

  it('lists nothing half-made, and says what is damaged', async () => {
    await here.commit('whole');
    await here.commit('half');
    await rm(join(here.localDir('half'), 'metadata.json'));
    await here.commit('damaged');
    await writeFile(join(here.localDir('damaged'), 'metadata.json'), '{');
    const fake = here.cli();

    expect(await run(['ls', '--json'], fake.cli)).toBe(0);

    const { checkpoints, problems } = JSON.parse(fake.stdout()) as {
      checkpoints: Array<{ checkpointId: string }>;
      problems: string[];
    };
    expect(checkpoints.map((row) => row.checkpointId)).toEqual(['whole']);
    expect(problems).toEqual([expect.stringMatching(/^damaged on this node: .*damaged/)]);
  });

  it('is empty on a fresh node, and says that no store is configured', async () => {
    const fake = here.cli({ KYBERNATE_STORE: undefined });

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
    await here.commitThree();
    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2026-03-04T12:00:00Z') });
    const fake = here.cli();

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
    expect(await run(['ls', ...flags], here.cli().cli)).toBe(2);
  });

  it('refuses a store address that is none', async () => {
    expect(await run(['ls', '--store', '/srv/store'], here.cli().cli)).toBe(2);
  });
});
