import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import type { TransferStatus, TransferTask } from '../core/contract/transfer.ts';
import { testOp } from '../test/harness/checkpoint-dir.ts';
import { Transfers, type TransferWork } from './transfers.ts';

const { log } = testOp();
const UPLOAD = { checkpointId: 'ck-1' };

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-transfers-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const atOnce: TransferWork = () => Promise.resolve({ hash: 'ab', location: 'file:///s' });
const untilStopped: TransferWork = (_id, _task, op) =>
  new Promise((_resolve, reject) => {
    op.signal.addEventListener('abort', () => reject(op.signal.reason as Error));
  });

async function endOf(transfers: Transfers, id: string): Promise<TransferStatus | undefined> {
  let last: TransferStatus | undefined;
  for await (const status of transfers.follow(id)) {
    last = status;
  }
  return last;
}

describe('a transfer', () => {
  it('has every default, an id, progress and an end with its result', async () => {
    const seen: TransferTask[] = [];
    const transfers = await Transfers.open(dir, {
      work: (id, task, op) => {
        seen.push(task);
        op.progress({ phase: 'uploading', bytesDone: 5, bytesTotal: 10 });
        return atOnce(id, task, op);
      },
      log,
    });

    const { transferId, status } = await transfers.start('upload', UPLOAD);

    expect(status).toBe('queued');
    expect(await endOf(transfers, transferId)).toEqual({
      transferId,
      kind: 'upload',
      checkpointId: 'ck-1',
      status: 'done',
      bytes: 5,
      totalBytes: 10,
      hash: 'ab',
      location: 'file:///s',
    });
    const call = { checkpointId: 'ck-1', paths: [], tier: 's3', compress: 'zstd', hash: 'blake3' };
    expect(seen).toEqual([{ kind: 'upload', call }]);
    expect(transfers.list()).toHaveLength(1);
  });

  it('that fails tells the type of its error', async () => {
    const work = () => Promise.reject(new KybernateError('StorageDenied', 'no'));
    const transfers = await Transfers.open(dir, { work, log });

    const { transferId } = await transfers.start('upload', UPLOAD);

    expect(await endOf(transfers, transferId)).toMatchObject({
      status: 'failed',
      error: { type: 'StorageDenied', message: 'no' },
    });
  });

  it.each([
    ['upload', { checkpointId: '../x' }],
    ['upload', { checkpointId: 'ck-1', compress: 'gzip' }],
    ['upload', { checkpointId: 'ck-1', hash: 'md5' }],
    ['upload', { checkpointId: 'ck-1', tier: 'tape' }],
    ['upload', { checkpointId: 'ck-1', paths: ['relative'] }],
    ['upload', { checkpointId: 'ck-1', paths: ['/a/../b'] }],
    ['upload', { checkpointId: 'ck-1', more: 1 }],
    ['download', { checkpointId: 'ck-1' }],
    ['prefetch', { checkpointId: 'ck-1', targetNode: 'a/b' }],
  ] as const)('is refused when the call is %s %j, and nothing is written down', async (kind, call) => {
    const transfers = await Transfers.open(dir, { work: atOnce, log });

    await expect(transfers.start(kind, call)).rejects.toMatchObject({ type: 'InvalidInput' });

    expect(await readdir(dir)).toEqual([]);
  });

  it('goes on when nobody follows it any more, and ends when it is cancelled', async () => {
    const transfers = await Transfers.open(dir, { work: untilStopped, log });
    const { transferId } = await transfers.start('upload', UPLOAD);
    const gone = new AbortController();
    const follower = transfers.follow(transferId, gone.signal);
    await follower.next();
    gone.abort();
    await follower.next();

    expect(transfers.status(transferId).status).toBe('running');
    expect(await transfers.cancel(transferId)).toMatchObject({ status: 'cancelled' });
    expect(await transfers.cancel(transferId)).toMatchObject({ status: 'cancelled' });
  });

  it('waits for its turn behind four others, and can be cancelled there', async () => {
    const transfers = await Transfers.open(dir, { work: untilStopped, log });
    const started: string[] = [];
    for (let index = 0; index < 6; index += 1) {
      started.push((await transfers.start('upload', UPLOAD)).transferId);
    }
    const states = (): string[] => started.map((id) => transfers.status(id).status);
    expect(states()).toEqual([...Array<string>(4).fill('running'), 'queued', 'queued']);

    await transfers.cancel(started[4] ?? '');
    await transfers.cancel(started[0] ?? '');

    await expect.poll(states).toEqual(['cancelled', 'running', 'running', 'running', 'cancelled', 'running']);
    await transfers.close();
  });
});

describe('after a restart', () => {
  it('what had ended can still be asked for, and what had not begins again under its id', async () => {
    const before = await Transfers.open(dir, { work: atOnce, log });
    const ended = await before.start('upload', UPLOAD);
    await endOf(before, ended.transferId);
    const dying = await Transfers.open(dir, { work: untilStopped, log });
    const running = await dying.start('download', { checkpointId: 'ck-2', destDir: '/d' });
    await dying.close();

    const again: string[] = [];
    const after = await Transfers.open(dir, {
      work: (id, task, op) => {
        again.push(id);
        return atOnce(id, task, op);
      },
      log,
    });

    expect(after.status(ended.transferId)).toMatchObject({ status: 'done', hash: 'ab' });
    expect(await endOf(after, running.transferId)).toMatchObject({ status: 'done', checkpointId: 'ck-2' });
    expect(again).toEqual([running.transferId]);
  });

  it('forgets the ends of last week and what is no record', async () => {
    const before = await Transfers.open(dir, { work: atOnce, log });
    const { transferId } = await before.start('upload', UPLOAD);
    await endOf(before, transferId);
    const path = join(dir, `${transferId}.json`);
    const old = { ...(JSON.parse(await readFile(path, 'utf8')) as object), changedAt: '2020-01-01T00:00:00.000Z' };
    await writeFile(path, JSON.stringify(old));
    await utimes(path, 0, 0);
    await writeFile(join(dir, `${'0'.repeat(16)}.json`), '{"half');

    const after = await Transfers.open(dir, { work: atOnce, log });

    expect(() => after.status(transferId)).toThrow(`no transfer ${transferId}`);
    expect(await readdir(dir)).toEqual([]);
  });
});
