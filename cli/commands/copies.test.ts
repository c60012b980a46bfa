/* verify, repair, export, import and cat against a real directory of checkpoints and a real store in a directory. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RepairResult, VerifyResult } from '../../core/contract/verify.ts';
import { openBackend } from '../../store/backend/open.ts';
import { publishManifest } from '../../store/publish.ts';
import { makeCheckpoint, noise, PAGE, sampleFiles, testOp } from '../../test/harness/checkpoint-dir.ts';
import { createFakeCli, type FakeCli, type FakeCliOptions } from '../../test/harness/fake-cli.ts';
import { run } from '../program.ts';

let root = '';
let storeUrl = '';
let dir = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-copies-'));
  storeUrl = `file://${join(root, 'store')}`;
  dir = join(root, 'state/checkpoints/checkpoint-ck-1');
  await makeCheckpoint(dir, 'ck-1');
});
afterEach(() => rm(root, { recursive: true, force: true }));

function cliHere(options: FakeCliOptions = {}): FakeCli {
  const env = { KYBERNATE_STATE_DIR: join(root, 'state'), KYBERNATE_STORE: storeUrl, ...options.env };
  return createFakeCli({ ...options, env });
}

async function publish(): Promise<void> {
  const backend = await openBackend(storeUrl);
  await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp(), ledgerPath: join(root, 'ledger') });
  await backend.close();
}

describe('verify', () => {
  const places: VerifyResult['places'] = [
    {
      place: 'store',
      where: 's3://bucket',
      found: true,
      ok: true,
      files: 9,
      bytes: 1024,
      problems: [],
      problemCount: 0,
    },
    {
      place: 'node',
      where: '/var/lib/kybernate/checkpoints/checkpoint-ck-1',
      found: true,
      ok: false,
      files: 9,
      bytes: 2048,
      problems: [{ kind: 'damaged', message: 'it is damaged', file: 'criu/pages-1.img', chunk: 3 }],
      problemCount: 3,
    },
  ];

  it('sends what the flags say, and tells every copy and every problem', async () => {
    const result = async (): Promise<unknown> => ({
      checkpointId: 'ck-1',
      node: 'node-b',
      mode: 'full',
      ok: false,
      places,
    });
    const fake = cliHere({ operation: { result } });

    expect(await run(['verify', 'ck-1', '--full', '--where', 'both', '--node', 'node-b'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual([
      'verify',
      { checkpointId: 'ck-1', node: 'node-b', where: 'both', mode: 'full' },
      {},
    ]);
    expect(fake.exitCode()).toBe(15);
    expect(fake.stdout()).toBe(`COPY   STATE                FILES     READ  WHERE
store  whole                    9  1.0 KiB  s3://bucket
node   damaged: 3 problems      9  2.0 KiB  /var/lib/kybernate/checkpoints/checkpoint-ck-1

node:
  damaged criu/pages-1.img chunk 3: it is damaged
  and 2 more
`);
  });

  it('says of a quick look what it was, and counts no files where none were listed', async () => {
    const [store] = places;
    const quick = [{ ...store, files: 0, bytes: 0 }];
    const result = async (): Promise<unknown> => ({ mode: 'quick', ok: true, places: quick });
    const fake = cliHere({ operation: { result } });

    expect(await run(['verify', 'ck-1'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe(`COPY   STATE  FILES  READ  WHERE
store  whole      -     -  s3://bucket

presence and sizes only; --full reads every byte
`);
  });

  it('ends with 0 when all is whole', async () => {
    const result = async (): Promise<unknown> => ({ ok: true, places: places.slice(0, 1) });
    const fake = cliHere({ operation: { result } });

    expect(await run(['verify', 'ck-1'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['verify', { checkpointId: 'ck-1', node: 'node-a', mode: 'quick' }, {}]);
    expect(fake.exitCode()).toBeUndefined();
  });

  it('looks at a directory without a server', async () => {
    const whole = cliHere();
    expect(await run(['verify', '--path', dir, '--full', '--json'], whole.cli)).toBe(0);
    expect(JSON.parse(whole.stdout())).toMatchObject({ mode: 'full', ok: true, places: [{ where: dir, ok: true }] });
    expect(whole.exitCode()).toBeUndefined();

    await writeFile(join(dir, 'criu/core-1.img'), noise(700, 'x'));
    const quick = cliHere();
    const full = cliHere();
    await run(['verify', '--path', dir], quick.cli);
    await run(['verify', '--path', dir, '--full'], full.cli);

    expect([quick.exitCode(), full.exitCode()]).toEqual([undefined, 15]);
    expect(full.stdout()).toContain('damaged criu/core-1.img chunk 0');
    expect(full.calls).toEqual([]);
  });

  it.each([
    ['an id and a path', ['verify', 'ck-1', '--path', '/x'], 2],
    ['no id', ['verify'], 2],
    ['a bad id', ['verify', '../x'], 2],
    ['a directory that is no checkpoint', ['verify', '--path', '/usr'], 5],
  ])('refuses %s', async (_, args, code) => {
    expect(await run(args, cliHere().cli)).toBe(code);
  });
});

describe('verify without arguments', () => {
  it('names both ways to say what is meant', async () => {
    const fake = cliHere();

    expect(await run(['verify'], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain('give a checkpoint id, or --path <directory>');
  });
});

describe('repair', () => {
  it('sends what the flags say, and tells what was done', async () => {
    const place = { where: 's3://bucket', found: true, ok: true, files: 9, bytes: 1024, problems: [], problemCount: 0 };
    const result: RepairResult = {
      checkpointId: 'ck-1',
      node: 'node-a',
      before: [],
      after: [{ place: 'store', ...place }],
      store: { markedPacks: ['ab'], restoredPacks: ['cd'], rewrittenIndexes: [], newChunks: 3, sentBytes: 4096 },
      nodeCopy: { localPath: '/x', fetchedBytes: 2048 },
    };
    const fake = cliHere({ operation: { result: async () => result } });

    expect(await run(['repair', 'ck-1', '--where', 'store'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['repair', { checkpointId: 'ck-1', node: 'node-a', where: 'store' }, {}]);
    expect(fake.stdout()).toContain(
      'store: 4.0 KiB sent again, 1 damaged pack left behind, 1 put again from a tier, 0 copies of indexes written anew',
    );
    expect(fake.stdout()).toContain('node: 2.0 KiB fetched to /x');
  });
});

describe('export and import', () => {
  it('a file that is no archive is called that, and nothing of it is shown', async () => {
    const file = join(root, 'garbage.tar');
    await writeFile(file, Buffer.alloc(4096, 'x'));
    const fake = cliHere();

    expect(await run(['import', file], fake.cli)).toBe(15);

    expect(fake.stderr()).toContain(`CheckpointCorrupt: ${file}: it is no archive of a checkpoint`);
    expect(fake.stderr()).toContain('remedy:   give an archive of `kybernate export`, ');
    expect(fake.stderr()).not.toContain('xx');
  });

  it('a file that is damaged is named, and the remedy is another export', async () => {
    const file = join(root, 'x.tar');
    await run(['export', 'ck-1', '-o', file], cliHere().cli);
    const bytes = await readFile(file);
    await writeFile(file, bytes.fill(0xff, bytes.length / 2));
    const fake = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') } });

    expect(await run(['import', file], fake.cli)).toBe(15);

    expect(fake.stderr()).toContain(`CheckpointCorrupt: ${file}: `);
    expect(fake.stderr()).toContain('remedy:   the archive is damaged: export it again\n');
  });

  it('a checkpoint that is nowhere is not found in each place that was looked at', async () => {
    await publish();
    const [both, store] = [cliHere(), cliHere()];

    expect(await run(['export', 'nope', '-o', join(root, 'x')], both.cli)).toBe(5);
    expect(await run(['export', 'nope', '-o', join(root, 'x'), '--from', 'store'], store.cli)).toBe(5);

    expect(both.stderr()).toContain(
      `no checkpoint nope in ${join(root, 'state/checkpoints')} nor in the store ${storeUrl}`,
    );
    expect(store.stderr()).toContain(`no checkpoint nope in the store ${storeUrl}`);
  });

  it.each([
    ['a file', 'x.tar', []],
    ['a compressed file', 'x.tar.zst', []],
    ['a file, from the store', 'x.tar', ['--from', 'store']],
  ])('bring a checkpoint from one host to another by %s', async (_, name, flags) => {
    await publish();
    const file = join(root, name);
    const from = cliHere();
    const to = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') } });

    expect(await run(['export', 'ck-1', '-o', file, ...flags], from.cli)).toBe(0);
    expect(await run(['import', file, '--json'], to.cli)).toBe(0);

    const imported = join(root, 'other/checkpoints/checkpoint-ck-1');
    expect(JSON.parse(to.stdout())).toMatchObject({ checkpointId: 'ck-1', path: imported, created: true });
    for (const [path, content] of Object.entries(sampleFiles())) {
      expect((await readFile(join(imported, path))).equals(content), path).toBe(true);
    }
    expect((await readdir(root)).filter((entry) => entry.endsWith('.part'))).toEqual([]);
  });

  it('go through a pipe', async () => {
    const from = cliHere();
    expect(await run(['export', 'ck-1'], from.cli)).toBe(0);
    expect(from.stdout()).toBe('');

    const to = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') }, input: from.stdoutBytes() });
    expect(await run(['import', '-'], to.cli)).toBe(0);
    expect(to.stdout()).toContain('imported ck-1');

    const again = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') }, input: from.stdoutBytes() });
    expect(await run(['import', '-'], again.cli)).toBe(0);
    expect(again.stdout()).toContain('ck-1 was there');
  });

  it('leave no lease in the store when the reader of the pipe ends', async () => {
    await publish();
    const env = { ...process.env, KYBERNATE_STATE_DIR: join(root, 'other'), KYBERNATE_STORE: storeUrl };
    const main = fileURLToPath(new URL('../main.ts', import.meta.url));
    const child = spawn(process.execPath, [main, 'export', 'ck-1', '--from', 'store'], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const ended = once(child, 'close');
    child.stderr.resume();
    await once(child.stdout, 'readable');
    expect(await readdir(join(root, 'store/leases'))).toHaveLength(1);

    child.stdout.destroy();

    expect(await ended).toEqual([130, null]);
    expect(await readdir(join(root, 'store/leases'))).toEqual([]);
  });

  it('fill a store, and leave nothing on the host', async () => {
    const from = cliHere();
    await run(['export', 'ck-1'], from.cli);
    const to = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') }, input: from.stdoutBytes() });

    expect(await run(['import', '-', '--store'], to.cli)).toBe(0);

    expect(to.stdout()).toContain(`${storeUrl}/checkpoints/ck-1/manifest.json`);
    expect(await readdir(root)).not.toContain('other');
    const read = cliHere({ env: { KYBERNATE_STATE_DIR: join(root, 'other') } });
    expect(await run(['cat', 'ck-1', 'config.json'], read.cli)).toBe(0);
    expect(read.stdoutBytes().equals(sampleFiles()['config.json'] ?? Buffer.alloc(0))).toBe(true);
  });

  it('refuse damage: no file, no checkpoint', async () => {
    const from = cliHere();
    await run(['export', 'ck-1'], from.cli);
    const bytes = from.stdoutBytes();
    bytes[bytes.length - 5000] = (bytes[bytes.length - 5000] ?? 0) ^ 1;
    await writeFile(join(root, 'bad.tar'), bytes);
    await writeFile(join(dir, 'criu/core-1.img'), noise(700, 'x'));
    const other = { KYBERNATE_STATE_DIR: join(root, 'other') };

    expect(await run(['import', join(root, 'bad.tar')], cliHere({ env: other }).cli)).toBe(15);
    expect(await run(['export', 'ck-1', '-o', join(root, 'y.tar')], cliHere().cli)).toBe(15);
    expect(await readdir(join(root, 'other/checkpoints'))).toEqual([]);
    expect(await readdir(root)).not.toContain('y.tar');
  });

  it('refuse an archive that nobody signed where signatures are required', async () => {
    const from = cliHere();
    await run(['export', 'ck-1'], from.cli);
    const { generateKeyPairSync } = await import('node:crypto');
    const pem = generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' });
    await writeFile(join(root, 'trusted.pem'), pem, { mode: 0o644 });
    const env = {
      KYBERNATE_STATE_DIR: join(root, 'other'),
      KYBERNATE_SIGNATURES: 'required',
      KYBERNATE_TRUSTED_KEYS: join(root, 'trusted.pem'),
    };

    expect(await run(['import', '-'], cliHere({ env, input: from.stdoutBytes() }).cli)).toBe(16);
    expect(await readdir(root)).not.toContain('other');
  });

  it.each([
    ['an archive as JSON on standard output', ['export', 'ck-1', '--json'], 2],
    ['a checkpoint that is nowhere', ['export', 'ck-9', '-o', 'x'], 5],
    ['a file that cannot be written', ['export', 'ck-1', '-o', '/nowhere/x'], 2],
    ['a file that is not there', ['import', '/nowhere/x'], 2],
  ])('refuse %s', async (_, args, code) => {
    await mkdir(join(root, 'store'), { recursive: true });

    expect(await run(args, cliHere().cli)).toBe(code);
  });
});

describe('cat', () => {
  it('prints a file, a part of it, and memory by its address', async () => {
    const files = sampleFiles();
    const whole = cliHere();
    const part = cliHere();
    const memory = cliHere();
    await publish();
    await rm(dir, { recursive: true });

    expect(await run(['cat', 'ck-1', 'fs/rootfs-diff.tar'], whole.cli)).toBe(0);
    expect(await run(['cat', 'ck-1', 'fs/rootfs-diff.tar', '--offset', '200KB', '--bytes', '10'], part.cli)).toBe(0);
    const address = ['--pid', '1', '--address', '0x550000031000', '--bytes', '4KiB'];
    expect(await run(['cat', 'ck-1', ...address], memory.cli)).toBe(0);

    expect(whole.stdoutBytes().equals(files['fs/rootfs-diff.tar'] ?? Buffer.alloc(0))).toBe(true);
    expect(part.stdoutBytes().equals(files['fs/rootfs-diff.tar']?.subarray(200_000, 200_010) ?? Buffer.alloc(0))).toBe(
      true,
    );
    expect(memory.stdoutBytes().equals(files['criu/pages-1.img']?.subarray(PAGE, 2 * PAGE) ?? Buffer.alloc(0))).toBe(
      true,
    );
  });

  it.each([
    ['no path', ['cat', 'ck-1']],
    ['a file that is not there', ['cat', 'ck-1', 'criu/nothing.img']],
    ['a process without an address', ['cat', 'ck-1', '--pid', '1']],
    ['a path and a process', ['cat', 'ck-1', 'config.json', '--pid', '1', '--address', '1', '--bytes', '1']],
    ['an address that is none', ['cat', 'ck-1', '--pid', '1', '--address', 'main', '--bytes', '1']],
  ])('refuses %s', async (_, args) => {
    expect(await run(args, cliHere().cli)).toBe(2);
  });
});
