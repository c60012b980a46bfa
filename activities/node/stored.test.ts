import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { makeCheckpoint, sampleFiles, testOp } from '../../test/harness/checkpoint-dir.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { publishManifest } from '../../store/publish.ts';
import { listStored } from '../../store/registry.ts';
import { openTier } from '../../store/tiers/open.ts';
import { TieredBackend } from '../../store/tiers/tiered.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { operationIdOf, type ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';
import { surveyStored, verifyStored } from './stored.ts';

const ID = { checkpointId: 'ck-1' };

let root = '';
let store: Backend;
let deps: NodeActivityDeps;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-stored-'));
  store = await openLocalBackend(join(root, 'store'));
  deps = { node: {} as NodeDeps, catalog: localCatalog(join(root, 'node')), backend: () => Promise.resolve(store) };
  await publish(deps.catalog.pathOf('ck-1'), 'committed here');
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function publish(dir: string, content: string): Promise<void> {
  const manifest = await makeCheckpoint(dir, 'ck-1', sampleFiles(content));
  const request = { ...ID, dir, backend: store, op: testOp(), ledgerPath: join(root, 'ledger') };
  await uploadCheckpoint({ ...request, manifest });
  await publishManifest({ ...request, replace: true });
}

function op(): ActivityOp {
  return { ...testOp(), operationId: operationIdOf('w', 'r'), workflow: { workflowId: 'w', runId: 'r' } };
}

async function isVerified(): Promise<boolean> {
  return (await listStored(store, testOp())).checkpoints[0]?.verifiedAt !== undefined;
}

describe('what root reads back from the store', () => {
  it('is verified when it is whole and what this node has committed', async () => {
    expect(await verifyStored(deps, op(), ID)).toMatchObject({ files: expect.any(Number) as number });

    expect(await isVerified()).toBe(true);
  });

  it('is not verified by a quick look', async () => {
    expect(await surveyStored(deps, op(), { ...ID, mode: 'quick' })).toMatchObject({ ok: true });

    expect(await isVerified()).toBe(false);
  });

  it('is refused, although it is whole, when this node has committed something else', async () => {
    await publish(join(root, 'elsewhere'), 'other bytes under the same id');

    await expect(verifyStored(deps, op(), ID)).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('is another checkpoint than that of this node') as string,
    });
    const report = await surveyStored(deps, op(), { ...ID, mode: 'full' });

    expect(report).toMatchObject({ ok: false, problems: [{ object: 'checkpoints/ck-1/manifest.json' }] });
    expect(await isVerified()).toBe(false);
  });

  it('is refused when nobody has signed it, although signatures are required', async () => {
    const strict: NodeActivityDeps = { ...deps, trust: { mode: 'required', keys: new Map() } };

    await expect(verifyStored(strict, op(), ID)).rejects.toMatchObject({ type: 'SignatureInvalid' });
    await expect(surveyStored(strict, op(), { ...ID, mode: 'full' })).rejects.toMatchObject({
      type: 'SignatureInvalid',
    });
    expect(await isVerified()).toBe(false);
  });

  it('is what lies in the store, whatever the tiers before it have', async () => {
    const { log } = testOp();
    const tier = await openTier({ name: 'nvme', dir: join(root, 'nvme'), budgetBytes: 1e9 }, log);
    const tiered = new TieredBackend({ store, tiers: [tier], peers: [], log });
    const behindTiers: NodeActivityDeps = { ...deps, backend: () => Promise.resolve(tiered) };
    const mayEvict = (): Promise<boolean> => Promise.resolve(false);
    for await (const { key } of store.list('packs/')) {
      await tier.store(key, new Uint8Array(100).fill(7), { mayEvictPack: mayEvict, mayEvictCheckpoint: mayEvict });
    }

    expect(await surveyStored(behindTiers, op(), { ...ID, mode: 'full' })).toMatchObject({ ok: true });

    for await (const { key } of store.list('packs/')) {
      expect(await tier.read(key, {})).toEqual(new Uint8Array(100).fill(7));
      await store.put(key, new Uint8Array(100));
    }
    expect(await surveyStored(behindTiers, op(), { ...ID, mode: 'full' })).toMatchObject({ ok: false });
  });
});
