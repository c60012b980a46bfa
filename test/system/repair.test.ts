/*
 * `kybernate verify`, `repair`, `prefetch` and `tiers` as they are installed: a container's checkpoint in a real S3
 * server, the sidecar of another uid before it, and damage done behind their backs to every copy in turn.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import type { RepairResult, VerifyResult } from '../../core/contract/verify.ts';
import type { TransferStatus } from '../../core/contract/transfer.ts';
import { ERRORS } from '../../core/errors.ts';
import { COUNTER, countsOn } from '../harness/aftermath.ts';
import { runCli, runCliJson } from '../harness/run-cli.ts';
import { BUSYBOX, Stack } from '../harness/stack.ts';
import { CREDENTIALS, Gateway } from '../harness/versitygw.ts';

let shared = '';
let gateway: Gateway;
let stack: Stack;
const ID = 'nightly';

beforeAll(async () => {
  shared = mkdtempSync('/dev/shm/kybernate-repair-');
  gateway = await Gateway.make(shared);
  stack = await Stack.open({
    env: {
      KYBERNATE_STORE: 's3://bucket/team',
      KYBERNATE_S3_ENDPOINT: gateway.endpoint,
      KYBERNATE_S3_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
      KYBERNATE_TIER_NVME_DIR: join(shared, 'nvme'),
      KYBERNATE_TIER_NVME_BYTES: '256MiB',
      KYBERNATE_TIER_RAM_DIR: join(shared, 'ram'),
      KYBERNATE_TIER_RAM_BYTES: '128MiB',
    },
  });
  await stack.runContainer('counts', BUSYBOX, COUNTER);
  await stack.checkpoint('counts', { checkpointId: ID, durability: 'remote' });
});
afterAll(async () => {
  await stack.close();
  await gateway.remove();
  rmSync(shared, { recursive: true, force: true });
});

const packsIn = (dir: string): string[] => readdirSync(join(dir, 'packs')).sort();
const store = (): string => join(gateway.dir, 'bucket/team');
const localFile = (name: string): string => join(stack.stateDir, `checkpoints/checkpoint-${ID}`, name);

function flipBit(path: string): void {
  const bytes = readFileSync(path);
  const at = bytes.length >> 1;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

/** Notes that root has read it back, every byte. */
const marks = (): string[] =>
  readdirSync(join(store(), 'checkpoints', ID)).filter((name) => name.startsWith('verified-'));

const verify = (...flags: string[]): Promise<VerifyResult> => runCliJson(stack.variables, 'verify', ID, ...flags);
const repair = (...flags: string[]): Promise<RepairResult> => runCliJson(stack.variables, 'repair', ID, ...flags);

async function restoreFrom(place: 'local' | 'store'): Promise<void> {
  const id = `from-${place}-${Math.random().toString(16).slice(2)}`;
  expect((await stack.restore(ID, id)).from).toBe(place);
  await countsOn(stack, id);
  await stack.removeContainer(id);
}

it('a bit that flipped on the server is seen by --full alone, named, and put right from a tier', async () => {
  const [pack = ''] = packsIn(store());
  expect(packsIn(join(shared, 'nvme'))).toEqual(packsIn(store()));
  flipBit(join(store(), 'packs', pack));

  const quick = await verify();
  const full = await runCli(stack.variables, 'verify', ID, '--full');
  const { problems = [] } = (await verify('--full', '--where', 'store')).places[0] ?? {};

  expect(quick).toMatchObject({ ok: true, places: [{ place: 'store' }, { place: 'node' }] });
  expect(full.exitCode).toBe(ERRORS.CheckpointCorrupt.exitCode);
  expect(full.stdout).toContain(pack);
  expect(problems).toEqual([expect.objectContaining({ kind: 'damaged', pack })]);

  expect(marks()).toEqual([]);
  expect(await repair()).toMatchObject({ store: { restoredPacks: [pack], markedPacks: [], sentBytes: 0 } });
  expect(marks()).toHaveLength(1);
});

it('a pack that is missing on the server is seen by a quick look, and put again although the node has no copy', async () => {
  const [pack = ''] = packsIn(store());
  rmSync(join(store(), 'packs', pack));
  stack.removeLocal(ID);

  expect((await verify()).places).toMatchObject([
    { place: 'store', ok: false, problems: [{ kind: 'missing', pack, object: `packs/${pack}` }] },
    { place: 'node', found: false },
  ]);

  expect(await repair()).toMatchObject({ store: { restoredPacks: [pack] } });
  expect(await verify('--full', '--where', 'store')).toMatchObject({ ok: true });
  await restoreFrom('store');
});

it('a pack that is damaged on the server and in every tier is sent again from the files of the node', async () => {
  const [pack = ''] = packsIn(store());
  for (const dir of [store(), join(shared, 'nvme')]) {
    flipBit(join(dir, 'packs', pack));
  }

  const repaired = await repair('--where', 'store');

  expect(repaired).toMatchObject({ store: { restoredPacks: [], markedPacks: [pack] } });
  expect(repaired.store?.sentBytes).toBeGreaterThan(0);
  expect(await verify('--full')).toMatchObject({ ok: true });
  stack.removeLocal(ID);
  await restoreFrom('store');
});

it('damage in the copy of the node is named with its files, and the copy replaced by that of the store', async () => {
  const [flipped, cut] = ['criu/pages-1.img', 'config.json'];
  flipBit(localFile(flipped));
  truncateSync(localFile(cut), statSync(localFile(cut)).size - 1);

  const quick = await verify('--where', 'node');
  const full = await verify('--full', '--where', 'node');

  expect(quick.places[0]?.problems).toEqual([expect.objectContaining({ kind: 'size', file: cut })]);
  expect(full.places[0]?.problems).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ kind: 'size', file: cut }),
      expect.objectContaining({ kind: 'damaged', file: flipped, chunk: expect.any(Number) as number }),
    ]),
  );
  expect(full.places[0]?.problemCount).toBe(2);

  expect(await repair()).toMatchObject({
    nodeCopy: { localPath: join(stack.stateDir, `checkpoints/checkpoint-${ID}`) },
    after: [{ ok: true }, { ok: true }],
  });
  await restoreFrom('local');
});

it('what is whole nowhere is told with its file, and nothing is changed', async () => {
  const damaged = [store(), join(shared, 'nvme')].flatMap((dir) =>
    packsIn(dir).map((pack) => join(dir, 'packs', pack)),
  );
  const before = damaged.map((path) => readFileSync(path));
  const pages = readFileSync(localFile('criu/pages-1.img'));
  damaged.forEach((path) => flipBit(path));
  writeFileSync(localFile('criu/pages-1.img'), Buffer.alloc(pages.length, 7));

  const failed = await runCli(stack.variables, 'repair', ID);

  expect(failed.exitCode).toBe(ERRORS.CheckpointCorrupt.exitCode);
  expect(failed.stderr).toContain('cannot be repaired, it is whole nowhere');
  expect(failed.stderr).toContain('criu/pages-1.img');
  damaged.forEach((path, index) => writeFileSync(path, before[index] ?? ''));
  writeFileSync(localFile('criu/pages-1.img'), pages);
  expect((await repair()).after).toMatchObject([{ ok: true }, { ok: true }]);
});

it('a prefetch by the socket of the sidecar fills its ram, `tiers` shows it, and a restore reads from there', async () => {
  const brought = await runCliJson<TransferStatus>(stack.variables, 'transfer', 'prefetch', ID, '--tier', 'ram');
  const shown = await runCli(stack.variables, 'tiers', '--checkpoint', ID);
  const pages = await runCli(stack.variables, 'tiers', '--checkpoint', ID, '--file', 'criu/pages-1.img');

  expect(brought).toMatchObject({ kind: 'prefetch', status: 'done' });
  expect(shown.stdout).toMatch(/^ram\s+\d+ packs, .*\(100 %\)$/m);
  expect(pages.stdout).toMatch(/^ram\s+\d+ chunks, .*\(100 %\)$/m);
  stack.removeLocal(ID);
  await restoreFrom('store');
});
