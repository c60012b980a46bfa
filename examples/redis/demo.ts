/*
 * A real redis-server in a containerd container: 200,000 keys, a file in its own layer, a client on a TCP connection.
 * Checkpointed through Temporal into a store, killed, removed, its local copy deleted, restored from the store, and
 * checked from outside. Every step is a command that you could type; `make demo STORE=s3` takes a real S3 server.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from '../../cli/dev/wait.ts';
import { RedisConnection } from './resp.ts';

const KEYS = 200_000;
/** Any free one: a demo that failed may have left its redis for you to look at. */
const PORT = await freePort(16_379);
const NAMESPACE = 'demo';
const CONTAINER = `redis-${process.pid}`;
const RESTORED = `${CONTAINER}-back`;
const NOTE = `written before the checkpoint, ${new Date().toISOString()}`;
const STORE = process.env['STORE'] === 's3' ? 's3' : 'dir';

const cli = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const run = promisify(execFile);
const startedAt = performance.now();

interface Environment {
  readonly dir: string;
  readonly store: string;
  readonly containerdAddress: string;
  readonly ctr: string;
  readonly uiUrl: string;
  readonly env: Record<string, string>;
}

function say(text: string): void {
  console.log(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${text}`);
}

async function command(env: NodeJS.ProcessEnv, ...args: string[]): Promise<string> {
  const { stdout } = await run(process.execPath, [cli, ...args], { env, maxBuffer: 1 << 26 });
  return stdout;
}

async function json<T>(env: NodeJS.ProcessEnv, ...args: string[]): Promise<T> {
  return JSON.parse(await command(env, ...args, '--json')) as T;
}

/** Fills redis with one pipeline; the values let a single digest stand for all of them. */
async function fill(redis: RedisConnection): Promise<void> {
  let sent: Promise<unknown>[] = [];
  for (let index = 0; index < KEYS; index += 1) {
    sent.push(redis.send('SET', `key:${index}`, `value ${index} of the demo`));
    if (sent.length === 10_000) {
      await Promise.all(sent);
      sent = [];
    }
  }
}

async function digest(redis: RedisConnection): Promise<string> {
  const hash = createHash('sha256');
  for (let start = 0; start < KEYS; start += 10_000) {
    const names = Array.from({ length: 10_000 }, (_, offset) => `key:${start + offset}`);
    hash.update(JSON.stringify(await redis.send('MGET', ...names)));
  }
  return hash.digest('hex');
}

async function info(redis: RedisConnection): Promise<Record<string, string>> {
  const text = String(await redis.send('INFO', 'server'));
  return Object.fromEntries(
    text
      .split('\r\n')
      .filter((line) => line.includes(':'))
      .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
  );
}

/** Pings until told to stop and counts how often its connection was cut. */
class Client {
  resets = 0;
  pings = 0;
  #stopped = false;
  #done: Promise<void> | undefined;

  start(): void {
    this.#done = this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      const connection = await RedisConnection.open(PORT).catch(() => undefined);
      if (connection !== undefined) {
        await this.#ping(connection);
        connection.close();
      }
      await new Promise((wake) => setTimeout(wake, 50));
    }
  }

  async #ping(connection: RedisConnection): Promise<void> {
    while (!this.#stopped) {
      try {
        await connection.send('PING');
      } catch {
        this.resets += 1;
        return;
      }
      this.pings += 1;
      await new Promise((wake) => setTimeout(wake, 20));
    }
  }
}

async function waitForRedis(): Promise<RedisConnection> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const connection = await RedisConnection.open(PORT).catch(() => undefined);
    if (connection !== undefined) {
      return connection;
    }
    await new Promise((wake) => setTimeout(wake, 100));
  }
  throw new Error(`redis does not answer on port ${PORT}`);
}

function expect(what: string, actual: unknown, wanted: unknown): void {
  if (actual !== wanted) {
    throw new Error(`${what}: expected ${String(wanted)}, found ${String(actual)}`);
  }
  say(`  ok  ${what}`);
}

interface CheckpointAnswer {
  readonly checkpointId: string;
  readonly freezeMs: number;
  readonly bytes: { readonly total: number; readonly stored: number };
}
interface RestoreAnswer {
  readonly restoreMs: number;
  readonly how: string;
  readonly from: string;
}

/** Workflow ids of our own, so that the links to the Web UI are known. */
const WORKFLOWS = { checkpoint: `demo-checkpoint-${process.pid}`, restore: `demo-restore-${process.pid}` } as const;

async function main(): Promise<void> {
  say(`starting a private containerd, Temporal and workers (store: ${STORE})`);
  const up = await json<Environment>(
    process.env,
    'up',
    '--store',
    STORE,
    '--images',
    'redis',
    '--namespace',
    NAMESPACE,
  );
  // One that was up already is used as it is, its store too, whatever STORE says.
  say(`using the environment in ${up.dir}, which stays up (kybernate down ends it); checkpoints go to ${up.store}`);
  const env = { ...process.env, ...up.env };
  const ctr = async (...args: string[]): Promise<string> =>
    (await run(up.ctr, ['--address', up.containerdAddress, '--namespace', NAMESPACE, ...args], { env })).stdout;

  say(`starting redis-server as container ${CONTAINER}`);
  const server = ['redis-server', '--port', String(PORT), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  await ctr(
    'run',
    '-d',
    '--null-io',
    '--net-host',
    'docker.io/kybernate/redis:1',
    CONTAINER,
    ...server,
    '--logfile',
    '/data/redis.log',
  );
  const before = await waitForRedis();
  await fill(before);
  await ctr('tasks', 'exec', '--exec-id', 'note', CONTAINER, '/bin/sh', '-c', `echo '${NOTE}' > /data/note`);
  const keysBefore = await digest(before);
  const infoBefore = await info(before);
  before.close();
  const client = new Client();
  client.start();
  say(
    `${KEYS} keys are in, a file is in its layer, a client is connected (run_id ${infoBefore['run_id']?.slice(0, 12)}…)`,
  );

  say(`kybernate checkpoint ${CONTAINER} --namespace ${NAMESPACE}`);
  const target = ['--namespace', NAMESPACE] as const;
  const { checkpointId, freezeMs, bytes } = await json<CheckpointAnswer>(
    env,
    'checkpoint',
    CONTAINER,
    ...target,
    '--workflow-id',
    WORKFLOWS.checkpoint,
  );
  say(`checkpoint ${checkpointId}: frozen ${freezeMs} ms, ${bytes.total} bytes, ${bytes.stored} stored`);
  const resetsWhileCheckpointing = client.resets;

  say('killing and removing the container, deleting the copy on this node');
  await ctr('tasks', 'kill', '--signal', 'SIGKILL', CONTAINER);
  await ctr('tasks', 'rm', '--force', CONTAINER).catch(() => undefined);
  await ctr('containers', 'rm', CONTAINER);
  await command(env, 'rm', checkpointId, '--local', '--force');

  say(`kybernate restore ${checkpointId} --name ${RESTORED}`);
  const { restoreMs, how, from } = await json<RestoreAnswer>(
    env,
    'restore',
    checkpointId,
    '--name',
    RESTORED,
    ...target,
    '--workflow-id',
    WORKFLOWS.restore,
  );
  say(`${how} from the ${from} in ${Math.round(restoreMs)} ms`);

  const after = await waitForRedis();
  const infoAfter = await info(after);
  expect(`all ${KEYS} keys are the same`, await digest(after), keysBefore);
  expect('the same run_id: restored, not started afresh', infoAfter['run_id'], infoBefore['run_id']);
  const up1 = Number(infoBefore['uptime_in_seconds']);
  expect('its uptime went on', Number(infoAfter['uptime_in_seconds']) >= up1, true);
  const note = await ctr('tasks', 'exec', '--exec-id', 'look', RESTORED, '/bin/cat', '/data/note');
  expect('the file in its layer is the same', note.trim(), NOTE);
  const log = await ctr('tasks', 'exec', '--exec-id', 'log', RESTORED, '/bin/cat', '/data/redis.log');
  expect('its log tells of one start only', log.split('Server initialized').length - 1, 1);
  await new Promise((wake) => setTimeout(wake, 300));
  await client.stop();
  expect('the checkpoint did not cut the client', resetsWhileCheckpointing, 0);
  expect('the client saw one reset and came back', client.resets, 1);
  after.close();

  const ui = (id: string): string => `${up.uiUrl}/namespaces/kybernate/workflows/${encodeURIComponent(id)}`;
  console.log(`
The two workflows in the Web UI:
  ${ui(WORKFLOWS.checkpoint)}
  ${ui(WORKFLOWS.restore)}
Try next (the environment keeps running; \`make down\` ends it):
  cli/kybernate ls
  cli/kybernate inspect ${checkpointId}
  cli/kybernate restore ${checkpointId} --name again --namespace ${NAMESPACE}
`);
  await ctr('tasks', 'kill', '--signal', 'SIGKILL', RESTORED);
  await ctr('tasks', 'rm', '--force', RESTORED).catch(() => undefined);
  await ctr('containers', 'rm', RESTORED);
  const totalS = ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`demo ok: keys=${KEYS} freeze_ms=${freezeMs} restore_ms=${Math.round(restoreMs)} total_s=${totalS}`);
}

try {
  await main();
  process.exit(0);
} catch (error) {
  const failure = error as Error & { stderr?: string };
  console.error(`demo failed: ${failure.message}\n${failure.stderr ?? ''}`);
  process.exit(1);
}
