/* `rm` against a real directory of checkpoints and a real store in a directory. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { takeLease } from '../../engine/restore-operation.ts';
import { openBackend } from '../../store/backend/open.ts';
import { acquireLease } from '../../store/lease.ts';
import { CheckpointPlaces, op } from '../../test/harness/checkpoint-places.ts';
import { run } from '../program.ts';

const OPERATION = '0123456789abcdef0123456789abcdef';
const here = new CheckpointPlaces();
beforeEach(() => here.make());
afterEach(() => here.remove());

describe('rm', () => {
  async function places(id: string): Promise<{ local: boolean; store: boolean }> {
    const backend = await openBackend(here.storeUrl);
    const store = (await backend.head(`checkpoints/${id}/manifest.json`)) !== undefined;
    await backend.close();
    const names = await readdir(join(here.root, 'state/checkpoints'));
    return { local: names.includes(`checkpoint-${id}`), store };
  }

  it.each<[string, string[], { local: boolean; store: boolean }]>([
    ['from both places', [], { local: false, store: false }],
    ['only from this node', ['--local'], { local: false, store: true }],
    ['only from the store', ['--store'], { local: true, store: false }],
    ['from both when both are named', ['--local', '--store'], { local: false, store: false }],
  ])('removes %s', async (_, flags, left) => {
    await here.commit('one');
    await here.publish('one');

    expect(await run(['rm', 'one', ...flags], here.cli().cli)).toBe(0);

    expect(await places('one')).toEqual(left);
  });

  it('removes several, and says what is gone when one is not there', async () => {
    await here.commit('one');
    const fake = here.cli();

    expect(await run(['rm', 'one', 'none'], fake.cli)).toBe(5);

    expect(fake.stderr()).toContain('removed one from this node\n');
    expect(fake.stderr()).toContain('no checkpoint none');
  });

  it('removes nothing when an id is malformed', async () => {
    await here.commit('one');

    expect(await run(['rm', 'one', '../x'], here.cli().cli)).toBe(2);

    expect(await places('one')).toMatchObject({ local: true });
  });

  it.each<[string, () => Promise<void>]>([
    [
      'a restore on this node uses it',
      async () => takeLease({ runDir: join(here.root, 'run'), stateDir: here.root }, 'one', OPERATION),
    ],
    ['its upload is pending', () => writeFile(join(here.localDir('one'), 'upload.pending'), '')],
    [
      'somebody reads it from the store',
      async () => {
        const backend = await openBackend(here.storeUrl);
        (await acquireLease(backend, { id: 'read-x', purpose: 'read', checkpointId: 'one' }, op)).stop();
        await backend.close();
      },
    ],
  ])('refuses while %s, and leaves the local copy', async (_, use) => {
    await here.commit('one');
    await use();
    const fake = here.cli();

    expect(await run(['rm', 'one', '--json'], fake.cli)).toBe(67);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'CheckpointInUse' } });
    expect(await readdir(join(here.root, 'state/checkpoints'))).toEqual(['checkpoint-one']);
  });

  it('removes with --force what is in use', async () => {
    await here.commit('one', { pending: true });
    takeLease({ runDir: join(here.root, 'run'), stateDir: here.root }, 'one', OPERATION);

    expect(await run(['rm', 'one', '--force'], here.cli().cli)).toBe(0);

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
    await here.commitThree();
    const fake = here.cli({}, options);

    expect(await run(['rm', '--label', 'team=search', ...flags], fake.cli)).toBe(exitCode);

    expect((await readdir(join(here.root, 'state/checkpoints'))).sort()).toEqual(left.map((id) => `checkpoint-${id}`));
  });

  it('removes several from the store at once, and passes over what is in use', async () => {
    await here.commitThree();
    await here.publish('a-old');
    await here.publish('b-gold');
    await here.publish('c-web');
    await writeFile(join(here.localDir('b-gold'), 'upload.pending'), '');
    const fake = here.cli();

    expect(await run(['rm', '--older-than', '1ms', '--yes'], fake.cli)).toBe(0);

    expect(await places('a-old')).toEqual({ local: false, store: false });
    expect(await places('b-gold')).toEqual({ local: true, store: true });
    expect(await places('c-web')).toEqual({ local: false, store: false });
    expect(fake.stderr()).toContain('b-gold stays: it is not in the store yet');
  });

  it('tells which it kept, and ends as by its id when it kept all', async () => {
    await here.commit('one');
    const backend = await openBackend(here.storeUrl);
    (await acquireLease(backend, { id: 'read-x', purpose: 'read', checkpointId: 'one' }, op)).stop();
    await backend.close();
    const all = here.cli();
    const named = here.cli();

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
    await here.commit('one');
    await here.publish('one');
    takeLease({ runDir: join(here.root, 'run'), stateDir: here.root }, 'one', OPERATION);

    expect(await run(['rm', 'one'], here.cli().cli)).toBe(67);

    expect(await places('one')).toEqual({ local: true, store: true });
  });

  it('finds with --dry-run what it would find without', async () => {
    await here.commit('one');
    const fake = here.cli();

    expect(await run(['rm', 'none', '--dry-run'], here.cli().cli)).toBe(5);
    expect(await run(['rm', 'one', '--store', '--dry-run'], here.cli().cli)).toBe(5);
    expect(await run(['rm', 'one', '--dry-run'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe('would remove one\n');
    expect(await places('one')).toMatchObject({ local: true });
  });

  it.each<[string, string[]]>([
    ['neither ids nor filters', []],
    ['both', ['one', '--node', 'node-a']],
  ])('refuses %s', async (_, args) => {
    await here.commit('one');

    expect(await run(['rm', ...args, '--yes'], here.cli().cli)).toBe(2);

    expect(await places('one')).toMatchObject({ local: true });
  });

  it('takes away what an interrupted removal left', async () => {
    await here.commit('one');
    await mkdir(join(here.root, 'state/checkpoints/removing-one/criu'), { recursive: true });

    expect(await run(['rm', 'one'], here.cli().cli)).toBe(0);

    expect(await readdir(join(here.root, 'state/checkpoints'))).toEqual([]);
  });
});
