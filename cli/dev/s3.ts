/* A private S3 server: versitygw over a plain folder, on a loopback port, with keys of its own. */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import { type Env, requireProgram } from '../setup/programs.ts';
import { type DaemonRecord, endedAtStart, findDaemon, isAlive, logTail, startDaemon, stopDaemon } from './process.ts';
import { freePort, waitFor } from './wait.ts';

export interface S3Server {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly bucket: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** folder of the bucket: every object is a file below it, so a test can damage one */
  readonly bucketDir: string;
}

export interface S3Options {
  readonly dir: string;
  readonly env: Env;
  /** default `kybernate` */
  readonly bucket?: string;
  /** a fixed port, for a server that comes back where it was; default: any free one */
  readonly port?: number;
}

function serverOf(record: DaemonRecord): S3Server {
  const {
    endpoint = '',
    bucket = '',
    region = '',
    accessKeyId = '',
    secretAccessKey = '',
    bucketDir = '',
  } = record.facts;
  return { endpoint, bucket, region, accessKeyId, secretAccessKey, bucketDir };
}

/** The running server of this directory, undefined when there is none. */
export function findS3(dir: string): S3Server | undefined {
  const record = findDaemon(dir, 's3');
  return record === undefined ? undefined : serverOf(record);
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

/**
 * Starts the server unless the one of this directory runs; the bucket is there when it returns.
 * @param keys reuse these, for a server that comes back; default: new ones
 * @throws Internal with the end of the server's log
 */
export async function startS3(
  options: S3Options,
  keys?: { readonly accessKeyId: string; readonly secretAccessKey: string },
): Promise<S3Server> {
  const { dir, env, bucket = 'kybernate' } = options;
  const root = join(dir, 's3');
  const bucketDir = join(root, bucket);
  // versitygw serves every folder of its root as a bucket of the root account.
  mkdirSync(bucketDir, { recursive: true });
  const port = await freePort(options.port);
  const { accessKeyId, secretAccessKey } = keys ?? {
    accessKeyId: `dev${randomBytes(8).toString('hex')}`,
    secretAccessKey: randomBytes(20).toString('hex'),
  };
  const record = await startDaemon(dir, {
    name: 's3',
    file: requireProgram('versitygw', env),
    args: ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', root],
    // Keys by environment: an argument list can be read by every user of the machine.
    env: { PATH: env['PATH'], HOME: dir, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    facts: {
      endpoint: `http://127.0.0.1:${port}`,
      bucket,
      region: 'us-east-1',
      accessKeyId,
      secretAccessKey,
      bucketDir,
    },
  });
  const server = serverOf(record);
  await waitFor(
    `answer from the S3 server on ${server.endpoint}`,
    20_000,
    () => {
      if (!isAlive(record)) {
        throw endedAtStart(record);
      }
      return accepts(Number(new URL(server.endpoint).port));
    },
    () => `\n${logTail(record.logFile)}`,
  );
  return server;
}

/** Stops the server; its objects stay. */
export async function stopS3(dir: string): Promise<void> {
  await stopDaemon(dir, 's3');
}
