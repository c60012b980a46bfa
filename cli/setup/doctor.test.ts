import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { RunResult } from '../../native/run/run.ts';
import { diagnose } from './doctor.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-doctor-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

function result(exitCode: number, stdout = ''): RunResult {
  return { exitCode, stdout, stderr: '', timedOut: false, cancelled: false, forceKilled: false, durationMs: 1 };
}

async function rowsNamed(
  pattern: RegExp,
  more: { criuExit?: number; temporalAddress?: string; env?: Record<string, string> } = {},
) {
  const rows = await diagnose({
    env: { ...process.env, ...more.env, KYBERNATE_CACHE: join(dir, 'cache'), KYBERNATE_CRIU: '/criu' },
    run: async () => result(more.criuExit ?? 0, 'Looks good.\n'),
    runDir: join(dir, 'run'),
    stateDir: join(dir, 'state'),
    containerdAddress: join(dir, 'containerd.sock'),
    temporalAddress: more.temporalAddress ?? '127.0.0.1:1',
    temporalNamespace: 'default',
  });
  return rows.filter((row) => pattern.test(row.name));
}

function putOperation(id: string, journal: object[]) {
  const operation = join(dir, 'run', 'operations', id);
  mkdirSync(operation, { recursive: true });
  writeFileSync(join(operation, 'journal.jsonl'), journal.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
}

describe('doctor', () => {
  it('finds a clean node without left-overs', async () => {
    const rows = await rowsNamed(/^(operations|uploads|state directory)$/);

    expect(rows.map((row) => row.state)).toEqual(['ok', 'ok', 'ok']);
  });

  it('lists a half-made checkpoint that nobody claims', async () => {
    const half = join(dir, 'state', 'checkpoints', 'checkpoint-half');
    mkdirSync(half, { recursive: true });

    const [row] = await rowsNamed(/^file /);

    expect(row).toMatchObject({ state: 'warn', name: `file ${half}`, detail: 'half-made checkpoint' });
    expect(row?.remedy).toContain('kybernate rescue --apply');
  });

  it('fails when the node worker polls another Temporal server than commands use', async () => {
    mkdirSync(join(dir, 'run'));
    const temporal = { address: 'temporal.example:7233', namespace: 'prod' };
    const agent = createHttpServer((_request, response) => response.end(JSON.stringify({ temporal })));
    await new Promise<void>((resolve) => agent.listen(join(dir, 'run', 'agent.sock'), resolve));
    try {
      const [row] = await rowsNamed(/^Temporal of the worker$/);

      expect(row).toMatchObject({
        state: 'fail',
        detail: expect.stringContaining('temporal.example:7233, namespace prod') as string,
      });
    } finally {
      agent.closeAllConnections();
      agent.close();
    }
  });

  it('fails for an operation without a live runner whose workload may be frozen', async () => {
    const id = 'a'.repeat(32);
    putOperation(id, [{ at: 't', step: 'frozen', state: 'begin' }]);

    const [row] = await rowsNamed(/^operation /);

    expect(row).toMatchObject({ state: 'fail', name: `operation ${id}` });
    expect(row?.detail).toContain('may be frozen');
    expect(row?.remedy).toContain('kybernate worker node');
  });

  it('warns of an operation without a live runner whose workload runs', async () => {
    putOperation('b'.repeat(32), []);

    expect(await rowsNamed(/^operation /)).toMatchObject([{ state: 'warn' }]);
  });

  it('warns of checkpoints that have not reached the store', async () => {
    const checkpoint = join(dir, 'state', 'checkpoints', 'checkpoint-ck-1');
    mkdirSync(checkpoint, { recursive: true });
    writeFileSync(join(checkpoint, 'upload.pending'), '');

    const [row] = await rowsNamed(/^uploads$/);

    expect(row).toMatchObject({ state: 'warn' });
    expect(row?.detail).toContain('ck-1');
  });

  it('fails when CRIU says no to this kernel', async () => {
    expect(await rowsNamed(/^criu check$/, { criuExit: 1 })).toMatchObject([{ state: 'fail' }]);
  });

  it('tells a server that answers from one that does not', async () => {
    const server = createServer((socket) => socket.end());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;

    const rows = await rowsNamed(/^(containerd|Temporal)$/, { temporalAddress: `127.0.0.1:${port}` });
    server.close();

    expect(rows.map((row) => [row.name, row.state])).toEqual([
      ['containerd', 'fail'],
      ['Temporal', 'ok'],
    ]);
    // What answers is no Temporal server, and is given its time.
  }, 20_000);

  it('warns of a node without a sidecar, and of an account that is missing', async () => {
    const rows = await rowsNamed(/^(sidecar|account)$/);

    expect(rows.find(({ name }) => name === 'sidecar')).toMatchObject({ state: 'warn' });
    expect(rows.find(({ name }) => name === 'account')?.state).not.toBe('fail');
  });

  it('takes the account that the variables name', async () => {
    const env = { KYBERNATE_SIDECAR_USER: '58711', KYBERNATE_GROUP: '58711' };

    expect(await rowsNamed(/^account$/, { env })).toMatchObject([{ state: 'ok', detail: 'user 58711, group 58711' }]);
  });

  it('misses an account that the variables name and nobody made', async () => {
    const env = { KYBERNATE_SIDECAR_USER: 'no-such-user', KYBERNATE_GROUP: '58711' };

    const [row] = await rowsNamed(/^account$/, { env });

    expect(row).toMatchObject({ state: 'warn', detail: expect.stringContaining('no user no-such-user') as string });
  });

  it('gives a remedy with every row that is not right', async () => {
    const rows = await rowsNamed(/./);

    expect(rows.filter((row) => row.state !== 'ok' && !row.remedy)).toEqual([]);
  });
});
