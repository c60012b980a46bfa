/* A disk without room for the note that a pod's container has had its first start: a tmpfs with few inodes. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasStarted, openPodStarts } from '../../engine/pod-starts.ts';
import { createOrRestore } from '../../shim/wrapper/create.ts';
import { WrapperBundle } from '../harness/wrapper-bundle.ts';

const POD = {
  'io.kubernetes.cri.container-type': 'container',
  'io.kubernetes.cri.container-name': 'app',
  'io.kubernetes.cri.sandbox-namespace': 'shop',
  'io.kubernetes.cri.sandbox-name': 'web-0',
  'io.kubernetes.cri.sandbox-uid': '11111111-2222',
};
const WISH = { pod: { namespace: 'shop', name: 'web-0', uid: '11111111-2222', container: 'app', named: false } };
const RUNC = join(import.meta.dirname, '../../shim/kybernate-runc');

describe('a container of a pod on a full disk', () => {
  let made: WrapperBundle;
  let disk: string;
  let runDir: string;
  beforeEach(() => {
    made = new WrapperBundle();
    runDir = join(made.dir, 'run');
    disk = mkdtempSync(join(tmpdir(), 'kybernate-small-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'nr_inodes=16', 'tmpfs', disk]);
    openPodStarts({ runDir, stateDir: disk });
  });
  afterEach(() => {
    execFileSync('umount', [disk]);
    rmSync(disk, { recursive: true });
    made.remove();
  });

  function fill(): void {
    mkdirSync(join(disk, 'filler'), { recursive: true });
    expect(() => {
      for (let at = 0; at < 64; at += 1) {
        writeFileSync(join(disk, 'filler', String(at)), '');
      }
    }).toThrow(/ENOSPC/);
  }

  function start(): { status: number | null; stderr: string } {
    const args = ['--root', join(made.dir, 'root/default'), 'start', 'id'];
    const { status, stderr } = spawnSync(RUNC, args, {
      encoding: 'utf8',
      env: { ...process.env, KYBERNATE_RUNC: '/bin/false' },
    });
    return { status, stderr };
  }

  it.each(['fail', 'cold-start'])('is not started under the policy %s, for a crash could rewind it', async (policy) => {
    made.asks({ ...POD, 'kybernate.io/on-failure': policy });
    fill();

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({
      kind: 'failed',
      message: expect.stringMatching(/shop\/web-0\/app was not restored from ck-1: DiskFull: .*make room/) as string,
    });
    expect([...made.prepared, ...made.ran]).toEqual([]);

    rmSync(join(disk, 'filler'), { recursive: true });
    expect((await createOrRestore(made.deps(), made.argv)).kind).toBe('restored');
  });

  it('is known to have started when the disk ran full during its restore', async () => {
    made.asks(POD);
    expect((await createOrRestore(made.deps(), made.argv)).kind).toBe('restored');
    rmSync(join(disk, 'pod-starts/11111111-2222.app.outcome'));
    fill();
    expect(hasStarted(runDir, WISH)).toBe(false);

    expect(start()).toEqual({ status: 0, stderr: '' });

    expect(hasStarted(runDir, WISH)).toBe(true);
    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'pass-through' });
  });

  it('does not start without its note, and says where it lies', async () => {
    made.asks(POD);
    await createOrRestore(made.deps(), made.argv);
    execFileSync('mount', ['-o', 'remount,ro', disk]);

    expect(start()).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(
        /first start of id: .*11111111-2222\.app\.unstarted.*Read-only file system/,
      ) as string,
    });

    const mark = readFileSync(made.marker(), 'utf8').split('\n')[1] ?? '';
    expect(existsSync(`${mark}.unstarted`)).toBe(true);
  });
});
