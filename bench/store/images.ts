/* The images that the benches of the store work on: memory of real processes, and three extremes. */
import { spawn } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, open, rm, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pagemapImage } from '../../test/harness/checkpoint-dir.ts';
import { dumpMemory } from './process-image.ts';

export const IMAGES = ['redis', 'python', 'compressible', 'incompressible', 'zero'] as const;
export type ImageName = (typeof IMAGES)[number];

const MiB = 2 ** 20;
const PAGE = 4096;

/** Makes an image of about `mib` MiB in a new directory. @returns its bytes */
export async function makeImage(name: ImageName, mib: number, dir: string): Promise<number> {
  await mkdir(join(dir, 'criu'), { recursive: true });
  return MAKERS[name](mib, dir);
}

const MAKERS: Readonly<Record<ImageName, (mib: number, dir: string) => Promise<number>>> = {
  redis: redisImage,
  python: pythonImage,
  compressible: (mib, dir) => fill(dir, mib, (block, number) => block.fill(logLines(number))),
  incompressible: (mib, dir) => fill(dir, mib, (block) => randomFillSync(block)),
  // one page in 200 is in use
  zero: (mib, dir) =>
    fill(dir, mib, (block, number) => {
      block.fill(0);
      for (let page = number % 200; page < block.length / PAGE; page += 200) {
        randomFillSync(block, page * PAGE, PAGE);
      }
      return block;
    }),
};

/** Lines of a log: no two of them are equal, so nothing is a duplicate, and a packer shrinks them 20 times. */
function logLines(block: number): Buffer {
  const lines: string[] = [];
  for (let line = 0; line < 16_384; line += 1) {
    lines.push(`${block}:${line} GET /index.html HTTP/1.1 200 served from cache to a client of the test\n`);
  }
  return Buffer.from(lines.join(''));
}

async function fill(dir: string, mib: number, write: (block: Buffer, number: number) => Buffer): Promise<number> {
  const file = await open(join(dir, 'criu/pages-1.img'), 'wx');
  const block = Buffer.alloc(MiB);
  for (let number = 0; number < mib; number += 1) {
    await file.write(write(block, number));
  }
  await file.close();
  await writeFile(join(dir, 'criu/pagemap-1.img'), pagemapImage(1, [{ vaddr: 2 ** 32, pages: (mib * MiB) / PAGE }]));
  return mib * MiB;
}

/** A key-value store full of sessions: short fields, names, numbers and tokens, as JSON. */
async function redisImage(mib: number, dir: string): Promise<number> {
  const program = '/usr/bin/redis-server';
  if (!existsSync(program)) {
    throw new Error('install redis: apt-get install -y --no-install-recommends redis-server redis-tools');
  }
  const socket = join(dir, 's');
  const args = ['--port', '0', '--unixsocket', socket, '--save', '', '--appendonly', 'no', '--daemonize', 'no'];
  const server = spawn(program, args, { stdio: 'ignore', cwd: dir });
  try {
    while (!existsSync(socket)) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const client = spawn('redis-cli', ['-s', socket, '--pipe'], { stdio: ['pipe', 'ignore', 'inherit'] });
    for (let batch = 0; batch < mib; batch += 1) {
      // about 1 MiB of redis's memory
      const commands = Array.from({ length: 1600 }, (_, index) => session(batch * 1600 + index));
      if (!client.stdin.write(commands.join(''))) {
        await once(client.stdin, 'drain');
      }
    }
    client.stdin.end();
    await once(client, 'exit');
    await rm(socket);
    return await dumpMemory(server.pid ?? 0, dir);
  } finally {
    server.kill('SIGKILL');
    await once(server, 'exit');
  }
}

const NAMES = ['anna', 'boris', 'chiara', 'dmitri', 'elif', 'farid', 'greta', 'hiroshi', 'ines', 'jonas'];

function session(number: number): string {
  const token = createHash('sha256').update(String(number)).digest('base64');
  const name = NAMES[number % NAMES.length] ?? '';
  const value = JSON.stringify({
    user: { id: number * 7919, name, mail: `${name}.${number}@example.org`, roles: ['reader', 'editor'] },
    token,
    cart: [1, 2, 3, 4, 5, 6].map((count) => ({ sku: `SKU-${token.charCodeAt(count)}${count}`, count })),
    lastSeen: 1_700_000_000 + number,
  });
  return `*3\r\n$3\r\nSET\r\n$${`session:${number}`.length}\r\nsession:${number}\r\n$${value.length}\r\n${value}\r\n`;
}

const PYTHON = `
import array, random, sys
mib = int(sys.argv[1]); r = random.Random(1)
# a third each: measurements as floats, labels and counts as objects, an index of small integers
floats = [array.array('d', (round(r.gauss(20, 5), 2) for _ in range(131072))) for _ in range(mib // 3)]
table = {'label-%d' % i: [r.random(), i, 'class-%d' % (i % 1000)] for i in range(mib // 3 * 2600)}
index = [array.array('i', (r.randrange(1000) for _ in range(262144))) for _ in range(mib // 3)]
print('ready', flush=True)
sys.stdin.read()
`;

/** A Python process with measurements in arrays, and a large dictionary. */
async function pythonImage(mib: number, dir: string): Promise<number> {
  const python = spawn('python3', ['-c', PYTHON, String(mib)], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    await once(createInterface(python.stdout), 'line');
    return await dumpMemory(python.pid ?? 0, dir);
  } finally {
    python.kill('SIGKILL');
    await once(python, 'exit');
  }
}
