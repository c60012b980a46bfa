/* The places where commands look for checkpoints, a node's directory and a store, both real, and a CLI that looks there. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createCliOp } from '../../cli/cli-op.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { openBackend } from '../../store/backend/open.ts';
import { describeCheckpoint } from '../../store/describe.ts';
import { publishManifest } from '../../store/publish.ts';
import { createFakeCli } from './fake-cli.ts';
import type { FakeCli, FakeCliOptions } from './fake-cli.ts';
import { metadataOf } from './stored-metadata.ts';

export const op = createCliOp(() => undefined);

export class CheckpointPlaces {
  root = '';
  storeUrl = '';

  async make(): Promise<void> {
    this.root = await mkdtemp(join(tmpdir(), 'kybernate-places-'));
    this.storeUrl = `file://${join(this.root, 'store')}`;
    await mkdir(join(this.root, 'store'));
  }

  async remove(): Promise<void> {
    await rm(this.root, { recursive: true });
  }

  cli(env: Record<string, string | undefined> = {}, options: FakeCliOptions = {}): FakeCli {
    return createFakeCli({
      ...options,
      env: {
        KYBERNATE_STATE_DIR: join(this.root, 'state'),
        KYBERNATE_RUN_DIR: join(this.root, 'run'),
        KYBERNATE_STORE: this.storeUrl,
        ...env,
      },
    });
  }

  localDir(id: string): string {
    return join(this.root, 'state/checkpoints', `checkpoint-${id}`);
  }

  /** A committed checkpoint on this node. */
  async commit(
    id: string,
    fields: { createdAt?: string; pending?: boolean; metadata?: Partial<Metadata> } = {},
  ): Promise<void> {
    const dir = this.localDir(id);
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

  async publish(id: string): Promise<void> {
    const backend = await openBackend(this.storeUrl);
    await publishManifest({ checkpointId: id, dir: this.localDir(id), backend, op });
    await backend.close();
  }

  /** In the order of their ages: of different labels, containers and nodes. */
  async commitThree(): Promise<void> {
    const { container, node, sizes } = metadataOf('', '', '');
    const createdAt = '2026-03-01T09:30:00.000Z';
    await this.commit('a-old', { createdAt, metadata: { sizes: { ...sizes, totalBytes: 9e9 } } });
    await this.commit('b-gold', {
      createdAt: '2026-03-03T09:30:00.000Z',
      metadata: { labels: { team: 'search', tier: 'gold' }, sizes: { ...sizes, totalBytes: 1 } },
    });
    await this.commit('c-web', {
      createdAt: '2026-03-04T09:30:00.000Z',
      metadata: { labels: {}, container: { ...container, id: 'web' }, node: { ...node, name: 'node-b' } },
    });
  }
}
