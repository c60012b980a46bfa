import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { connectDocker } from './client.ts';

let dir: string;
let socket: string;
let server: Server;
let asked: string[];
let answer: { status: number; body: string };

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'docker-'));
  socket = join(dir, 's');
  asked = [];
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    response.writeHead(answer.status).end(answer.body);
  });
  await new Promise<void>((resolve) => {
    server.listen(socket, resolve);
  });
});
afterEach(() => {
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

it('what is absent is undefined, and names are escaped', async () => {
  answer = { status: 404, body: '{"message":"no such"}' };

  expect(await connectDocker(socket).container('a/b')).toBeUndefined();
  expect(await connectDocker(socket).image('registry/app:1')).toBeUndefined();

  expect(asked).toEqual(['GET /containers/a%2Fb/json', 'GET /images/registry/app:1/json']);
});

it('a start of what runs already is success, a refusal carries the words of Docker', async () => {
  answer = { status: 304, body: '' };
  await connectDocker(socket).startContainer('id');
  answer = { status: 500, body: '{"message":"OCI runtime create failed"}' };

  await expect(connectDocker(socket).startContainer('id')).rejects.toMatchObject({
    type: 'Internal',
    message: 'Docker refuses POST /containers/id/start (500): OCI runtime create failed',
  });
});

it('a daemon that is away is told by its socket', async () => {
  await expect(connectDocker(join(dir, 'none')).info()).rejects.toMatchObject({
    type: 'RuntimeUnavailable',
    message: expect.stringContaining(join(dir, 'none')),
  });
});
