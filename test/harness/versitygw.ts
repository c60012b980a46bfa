/* A private S3 server that a test may stop, freeze and look into. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requireProgram } from '../../cli/setup/programs.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openS3Backend } from '../../store/backend/s3.ts';

export const CREDENTIALS = { accessKeyId: 'test-key', secretAccessKey: 'test-secret' };

/** A port of 127.0.0.1 on which nothing listens. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** One versitygw with the bucket `bucket` on a temporary directory; objects are files in it. */
export class Gateway {
  readonly dir: string;
  readonly port: number;
  #process: ChildProcess | undefined;

  constructor(dir: string, port: number) {
    this.dir = dir;
    this.port = port;
  }

  /** @param parent where its objects lie */
  static async make(parent = tmpdir()): Promise<Gateway> {
    const gateway = new Gateway(await mkdtemp(join(parent, 'kybernate-s3-')), await freePort());
    await mkdir(join(gateway.dir, 'bucket'));
    await gateway.start();
    return gateway;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const { accessKeyId, secretAccessKey } = CREDENTIALS;
    const args = ['--port', `127.0.0.1:${this.port}`, '--access', accessKeyId, '--secret', secretAccessKey];
    this.#process = spawn(requireProgram('versitygw', process.env), [...args, 'posix', this.dir], { stdio: 'ignore' });
    for (;;) {
      const up = await fetch(this.endpoint).then(
        () => true,
        () => false,
      );
      if (up) {
        return;
      }
      if (this.#process.exitCode !== null) {
        throw new Error(`versitygw ended with ${this.#process.exitCode}`);
      }
    }
  }

  signal(name: NodeJS.Signals): void {
    this.#process?.kill(name);
  }

  async stop(): Promise<void> {
    const running = this.#process;
    if (running !== undefined && running.exitCode === null && running.signalCode === null) {
      running.kill('SIGKILL');
      await once(running, 'exit');
    }
  }

  /** Removes all objects of the bucket, from under the server. */
  async empty(): Promise<void> {
    const bucket = join(this.dir, 'bucket');
    for (const name of await readdir(bucket)) {
      await rm(join(bucket, name), { recursive: true, force: true });
    }
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  open(bucket = 'bucket', prefix = '', credentials = CREDENTIALS): Backend {
    return openS3Backend(bucket, prefix, { endpoint: this.endpoint, credentials });
  }
}
