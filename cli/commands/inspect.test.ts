/* `inspect` against a real directory of checkpoints and a real store in a directory. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { openBackend } from '../../store/backend/open.ts';
import { verifyRemote } from '../../store/verify.ts';
import { CheckpointPlaces, op } from '../../test/harness/checkpoint-places.ts';
import { metadataOf } from '../../test/harness/stored-metadata.ts';
import { run } from '../program.ts';

const here = new CheckpointPlaces();
beforeEach(() => here.make());
afterEach(() => here.remove());

describe('inspect', () => {
  it('shows a summary', async () => {
    await here.commit('one');
    const fake = here.cli({ KYBERNATE_STORE: undefined });

    expect(await run(['inspect', 'one', '--files'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^checkpoint +one\n/);
    expect(fake.stdout()).toMatch(/\ncapture +engine runc, method criu, tcp keep, after: resume\n/);
    expect(fake.stdout()).toMatch(/\nnot captured +\/data \(bind from \/srv\/data\)\n/);
    expect(fake.stdout()).toMatch(/\n +1 +4711 +4700 +6 +redis-server\n/);
    expect(fake.stdout()).toMatch(/\n *13\.7 KiB {2}criu\/inventory\.img\n/);
  });

  it('shows what this node has, with a remark, while the store cannot be read', async () => {
    await here.commit('one');
    const store = { KYBERNATE_STORE: `file://${join(here.root, 'no-store')}` };
    const [text, json, elsewhere] = [here.cli(store), here.cli(store), here.cli(store)];

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
    await here.commit('gpu', { metadata });
    const fake = here.cli({ KYBERNATE_STORE: undefined });

    expect(await run(['inspect', 'gpu'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/\nGPU pause +4\.21 s\nGPU driver +580\.82\.07\n/);
    expect(fake.stdout()).toMatch(/\n +1 +4711 +4700 +1 +- +sh\n +7 +4712 +4711 +9 +8\.00 GiB +python3\n/);
    expect(fake.stdout()).toMatch(/\n +3 +GPU-11111111-\S+ +NVIDIA H100 +9\.0 +8\.00 GiB +80\.00 GiB\n/);
  });

  it('reads metadata and files from the store when the node has none', async () => {
    await here.commit('one');
    await here.publish('one');
    await rm(here.localDir('one'), { recursive: true });
    const fake = here.cli();

    expect(await run(['inspect', 'one', '--files', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toMatchObject({
      metadata: { checkpointId: 'one' },
      durability: 'remote',
      remote: `${here.storeUrl}/checkpoints/one/manifest.json`,
      files: [
        { path: 'config.json', bytes: 2 },
        { path: 'criu/inventory.img', bytes: 14_000 },
      ],
    });
  });

  it('tells when it was verified', async () => {
    await here.commit('one');
    await here.publish('one');
    const backend = await openBackend(here.storeUrl);
    await verifyRemote({ checkpointId: 'one', backend, op });
    const fake = here.cli();

    expect(await run(['inspect', 'one'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/\ndurability +verified\nverified +20\d\d-.* UTC\n/);
  });

  it('ends with 5 for an id that is nowhere', async () => {
    const fake = here.cli();

    expect(await run(['inspect', 'none', '--json'], fake.cli)).toBe(5);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'CheckpointNotFound' } });
  });

  it('refuses a store that is not there, and makes none', async () => {
    const typo = join(here.root, 'typo');
    const fake = here.cli({ KYBERNATE_STORE: `file://${typo}` });

    expect(await run(['inspect', 'none', '--json'], fake.cli)).toBe(17);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'StorageUnavailable' } });
    expect(await readdir(here.root)).not.toContain('typo');
  });

  it('refuses an id that could leave the directory', async () => {
    expect(await run(['inspect', '../x'], here.cli().cli)).toBe(2);
  });
});
