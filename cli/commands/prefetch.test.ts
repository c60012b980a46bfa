import { createServer, type Server } from 'node:http';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PrefetchResult } from '../../core/contract/prefetch.ts';
import type { TiersReport } from '../../core/contract/tiers.ts';
import { ERRORS } from '../../core/errors.ts';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import { run } from '../program.ts';

const MIB = 2 ** 20;
const RESULT: PrefetchResult = {
  checkpointId: 'nightly',
  tier: 'nvme',
  nodes: [
    {
      node: 'worker-1',
      outcome: 'done',
      bytes: 300 * MIB,
      presentBytes: 100 * MIB,
      from: { 'peer:worker-3': 150 * MIB, store: 50 * MIB },
      seconds: 2,
    },
    { node: 'worker-2', outcome: 'failed', error: { type: 'NodeUnavailable', message: 'no worker took the step' } },
  ],
};

describe('prefetch', () => {
  it('asks for nodes, tier and pin, and ends with the exit code of the node that failed', async () => {
    const fake = createFakeCli({ operation: { result: () => Promise.resolve(RESULT) } });
    const args = ['prefetch', 'nightly', '--node', 'worker-1', '--node', 'worker-2', '--pin-for', '2h'];

    expect(await run(args, fake.cli)).toBe(0);

    const request = { checkpointId: 'nightly', nodes: ['worker-1', 'worker-2'], pin: { expiresAfterMs: 7_200_000 } };
    expect(fake.calls[0]).toEqual(['prefetch', request, {}]);
    expect(fake.exitCode()).toBe(ERRORS.NodeUnavailable.exitCode);
    expect(fake.stdout()).toBe(`NODE      NVME       FROM                                                          TIME
worker-1  300.0 MiB  was there 100.0 MiB, peer:worker-3 150.0 MiB, store 50.0 MiB  2.00 s, 100.0 MiB/s
worker-2  failed
worker-2: NodeUnavailable: no worker took the step
`);
  });

  it('means this host and leaves the tier to the workflow when nothing else is said', async () => {
    const fake = createFakeCli();

    expect(await run(['prefetch', 'nightly', '--detach', '--pin'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['prefetch', { checkpointId: 'nightly', nodes: ['node-a'], pin: {} }, {}]);
    expect(fake.exitCode()).toBeUndefined();
  });

  it.each([
    ['a node that is named twice', ['--node', 'a', '--node', 'a'], '--node'],
    ['a node that is none', ['--node', 'A B'], '--node'],
    ['files that are pinned', ['--tier', 'local', '--pin'], '--pin'],
    ['another tier', ['--tier', 's3'], '--tier'],
  ])('refuses %s before anything is started', async (_, flags, named) => {
    const fake = createFakeCli();

    expect(await run(['prefetch', 'nightly', ...flags], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain(named);
    expect(fake.calls).toEqual([]);
  });
});

describe('tiers', () => {
  let root = '';
  let server: Server;
  const seen: string[] = [];
  let answer: object = {};
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'kybernate-cli-tiers-'));
    await mkdir(join(root, 'sidecar'));
    seen.length = 0;
    server = createServer((request, response) => {
      seen.push(`${request.method ?? ''} ${request.url ?? ''}`);
      response.end(JSON.stringify(answer));
    });
    await new Promise<void>((resolve) => server.listen(join(root, 'sidecar/transfer-http.sock'), resolve));
  });
  afterEach(async () => {
    await new Promise((resolve) => server.close(resolve));
    await rm(root, { recursive: true, force: true });
  });

  const tier = {
    tier: 'nvme',
    dir: '/mnt/nvme',
    budgetBytes: 1024 * MIB,
    usedBytes: 512 * MIB,
    pinnedBytes: 300 * MIB,
    packs: 16,
    objects: 33,
    pins: [{ checkpointId: 'nightly', expiresAt: '2026-03-01T09:30:00.000Z' }],
  } as const;

  async function tiers(report: TiersReport, ...args: string[]): Promise<string> {
    answer = report;
    const fake = createFakeCli({ env: { KYBERNATE_RUN_DIR: root } });
    expect(await run(['tiers', ...args], fake.cli)).toBe(0);
    return fake.stdout();
  }

  it('shows budgets, use and pins', async () => {
    const text = await tiers({ tiers: [tier] });

    expect(text).toBe(`TIER       USED    BUDGET     PINNED  PACKS  DIRECTORY
nvme  512.0 MiB  1.00 GiB  300.0 MiB     16  /mnt/nvme
pinned in nvme: nightly until 2026-03-01 09:30:00
`);
  });

  it('shows where a checkpoint and one of its files lie', async () => {
    const residency = {
      checkpointId: 'nightly',
      packs: 4,
      bytes: 128 * MIB,
      tiers: [{ tier: 'nvme', packs: 3, bytes: 96 * MIB, pinned: 'always' }],
    } as const;
    const share = { packs: 1, chunks: 10, bytes: MIB };
    const segment = { file: 'criu/pages-1.img', offset: 0, ...share, tiers: [{ tier: 'nvme', ...share }] } as const;

    const whole = await tiers({ tiers: [tier], residency }, '--checkpoint', 'nightly');
    const file = await tiers({ tiers: [tier], residency, segment }, '--checkpoint', 'nightly', '--file', segment.file);

    expect(whole).toContain('nvme     3 packs, 96.0 MiB (75 %), pinned\n');
    expect(file).toContain('nvme              10 chunks, 1.0 MiB (100 %)\n');
    expect(seen[1]).toBe('GET /v1/tiers?checkpoint=nightly&file=criu%2Fpages-1.img');
  });

  it('takes pins away', async () => {
    answer = { unpinned: ['ram', 'nvme'] };
    const fake = createFakeCli({ env: { KYBERNATE_RUN_DIR: root } });

    expect(await run(['tiers', '--unpin', 'nightly'], fake.cli)).toBe(0);

    expect(seen).toEqual(['DELETE /v1/pins/nightly']);
    expect(fake.stdout()).toBe('nightly is no longer pinned in ram and nvme\n');
  });

  it('says how to start a sidecar when there is none, and what it reports when it refuses', async () => {
    const none = createFakeCli({ env: { KYBERNATE_RUN_DIR: join(root, 'other') } });
    expect(await run(['tiers'], none.cli)).not.toBe(0);
    expect(none.stderr()).toContain('start `kybernate sidecar`');

    answer = { error: { type: 'CheckpointNotFound', message: 'no such checkpoint' } };
    const refused = createFakeCli({ env: { KYBERNATE_RUN_DIR: root } });
    expect(await run(['tiers', '--checkpoint', 'gone'], refused.cli)).not.toBe(0);
    expect(refused.stderr()).toContain('no such checkpoint');
  });
});
