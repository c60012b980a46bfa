import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import { run } from '../program.ts';

const ID = '0123456789abcdef';
const RUNNING = { transferId: ID, kind: 'upload', checkpointId: 'ck-1', status: 'running', bytes: 5 };
const DONE = { ...RUNNING, status: 'done', hash: 'ab', location: 's3://b/m' };

let runDir: string;
let server: Server;
let asked: string[];
let end: object;
beforeEach(async () => {
  runDir = await mkdtemp(join(tmpdir(), 'kybernate-transfer-'));
  await mkdir(join(runDir, 'sidecar'));
  asked = [];
  end = DONE;
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (part: Buffer) => (body += part.toString()));
    request.on('end', () => {
      asked.push(`${request.method ?? ''} ${request.url ?? ''}${body === '' ? '' : ` ${body}`}`);
      const lines = request.url?.endsWith('/progress') === true ? [RUNNING, end] : [RUNNING];
      response.end(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    });
  });
  await new Promise<void>((resolve) => server.listen(join(runDir, 'sidecar/transfer-http.sock'), resolve));
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(runDir, { recursive: true });
});

function transfer(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const fake = createFakeCli({ env: { KYBERNATE_RUN_DIR: runDir } });
  return run(['transfer', ...args], fake.cli).then((code) => ({ code, stdout: fake.stdout(), stderr: fake.stderr() }));
}

describe('kybernate transfer', () => {
  it.each([
    ['upload ck-1', 'POST /v1/upload {"checkpointId":"ck-1","paths":[]}'],
    [
      'upload ck-1 /a /b --tier nvme --compress lz4 --hash blake3',
      'POST /v1/upload {"checkpointId":"ck-1","paths":["/a","/b"],"tier":"nvme","compress":"lz4","hash":"blake3"}',
    ],
    ['download ck-1 /d --tier s3', 'POST /v1/download {"checkpointId":"ck-1","destDir":"/d","tier":"s3"}'],
    ['download ck-1 /d --stored', 'POST /v1/download {"checkpointId":"ck-1","destDir":"/d","decompress":"no"}'],
    ['prefetch ck-1', 'POST /v1/prefetch {"checkpointId":"ck-1"}'],
    [
      'prefetch ck-1 --tier ram --node node-b',
      'POST /v1/prefetch {"checkpointId":"ck-1","targetTier":"ram","targetNode":"node-b"}',
    ],
  ])('%s asks the sidecar and waits for the end', async (line, call) => {
    const { code, stdout } = await transfer(...line.split(' '), '--json');

    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual(DONE);
    expect(asked).toEqual([call, `GET /v1/transfers/${ID}/progress`]);
  });

  it('prints an id and does not wait with --detach', async () => {
    expect(await transfer('upload', 'ck-1', '--detach')).toEqual({ code: 0, stdout: `${ID}\n`, stderr: '' });
    expect(asked).toHaveLength(1);
  });

  it.each([
    ['status', `GET /v1/transfers/${ID}`],
    ['cancel', `POST /v1/transfers/${ID}/cancel`],
  ])('%s names the transfer', async (verb, call) => {
    const { code, stdout } = await transfer(verb, ID);

    expect(code).toBe(0);
    expect(stdout).toContain('running');
    expect(asked).toEqual([call]);
  });

  it('ends with the exit code of a transfer that failed', async () => {
    end = { ...RUNNING, status: 'failed', error: { type: 'StorageDenied', message: 'no' } };

    const { code, stderr } = await transfer('upload', 'ck-1');

    expect(code).toBe(18);
    expect(stderr).toContain('no');
  });

  it('says how to go on when the sidecar went away before the end', async () => {
    end = RUNNING;

    const { code, stderr } = await transfer('upload', 'ck-1');

    expect(code).toBe(17);
    expect(stderr).toContain(`kybernate transfer status ${ID}`);
  });

  it('says what to start when no sidecar answers', async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));

    const { code, stderr } = await transfer('status', ID);

    expect(code).toBe(17);
    expect(stderr).toMatch(/\n  remedy: {3}start `kybernate sidecar`\n$/);
    expect(stderr).not.toContain('workload');
  });
});
