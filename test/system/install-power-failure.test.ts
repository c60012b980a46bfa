/*
 * What `kybernate runtime install` has put on a node, after a power failure: an ext4 of its own, shut down as the kernel's tests
 * of file systems do it (EXT4_IOC_SHUTDOWN), with nothing flushed that was not flushed before.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { addRuntimes } from '../../cli/host/containerd-runtimes.ts';
import { DIGEST_FILE, installPayload } from '../../cli/host/payload.ts';
import { messageOf } from '../../core/errors.ts';
import { installShim } from '../../shim/install.ts';

/** linux/fs/ext4/ext4.h: _IOR('X', 125, __u32), and what becomes of the journal's last part. */
const EXT4_IOC_SHUTDOWN = 0x8004587d;
/** The names get to the disk, the content of files does not: what makes empty files. */
const LOGFLUSH = 1;
const NOLOGFLUSH = 2;

let dir: string;
let disk: string;
let image: string;

function mountDisk(): void {
  dir = mkdtempSync(join(tmpdir(), 'power-failure-'));
  disk = join(dir, 'disk');
  image = join(dir, 'ext4');
  mkdirSync(disk);
  writeFileSync(image, '');
  execFileSync('truncate', ['-s', '64M', image]);
  execFileSync('mkfs.ext4', ['-q', '-F', image]);
  execFileSync('mount', ['-o', 'loop', image, disk]);
}

function removeDisk(): void {
  // It may not have come to be mounted.
  spawnSync('umount', [disk]);
  rmSync(dir, { recursive: true });
}

/** A container may have no loop devices, and not every machine has the programs of ext4. */
function whyNoDisk(): string | undefined {
  try {
    mountDisk();
    return undefined;
  } catch (error) {
    return messageOf(error);
  } finally {
    removeDisk();
  }
}
const without = whyNoDisk();

beforeEach(mountDisk);
afterEach(removeDisk);

function failPower(how: number): void {
  const program =
    'open(F, "<", $ARGV[0]) or die $!; $flags = pack("L", $ARGV[2]); ioctl(F, $ARGV[1], $flags) or die $!';
  execFileSync('perl', ['-e', program, disk, String(EXT4_IOC_SHUTDOWN), String(how)]);
  execFileSync('umount', [disk]);
  execFileSync('mount', ['-o', 'loop', image, disk]);
}

function makePayload(): string {
  const payload = join(dir, 'payload');
  for (const [name, text] of [
    [DIGEST_FILE, 'aaaaaaaa\n'],
    ['bin/node', 'of node'],
    ['bin/criu', 'of criu'],
    ['dist/shim/kybernate-wrapper.mjs', 'of the wrapper'],
    ['dist/shim/kybernate-yaml.mjs', 'of yaml'],
  ] as const) {
    mkdirSync(join(payload, name, '..'), { recursive: true });
    writeFileSync(join(payload, name), text);
  }
  chmodSync(join(payload, 'bin/node'), 0o755);
  return payload;
}

const reason = without === undefined ? '' : ` (no disk here: ${without})`;
describe.skipIf(without !== undefined)(
  `the installation on a node whose power fails when it has ended${reason}`,
  () => {
    it.each([
      ['nothing that was still to be written gets to the disk', NOLOGFLUSH],
      ['names get to the disk, and no content', LOGFLUSH],
    ])('is whole, where %s', async (_how, flags) => {
      const host = join(disk, 'opt/kybernate');
      const config = join(disk, 'etc/containerd/config.toml');
      mkdirSync(join(disk, 'etc/containerd'), { recursive: true });
      writeFileSync(config, 'version = 3\n');
      execFileSync('sync', [config, join(disk, 'etc/containerd'), join(disk, 'etc'), disk]);

      const version = await installPayload(makePayload(), host);
      const launcher = installShim({
        targetDir: join(host, 'bin'),
        nodePath: join(version, 'bin/node'),
        wrapperPath: join(version, 'dist/shim/kybernate-wrapper.mjs'),
        runcPath: '/bin/true',
        criuPath: join(version, 'bin/criu'),
        agentSocket: '/run/kybernate/agent.sock',
      });
      await addRuntimes(launcher, {
        configFile: config,
        version: () => Promise.resolve('v2.4.2'),
        cri: () => Promise.resolve({ plugin: 'loaded' }),
        run: () => Promise.reject(new Error('nothing is restarted')),
        say: () => undefined,
      });
      failPower(flags);

      const text = (path: string): string => readFileSync(path, 'utf8');
      expect(readlinkSync(join(host, 'current'))).toBe('versions/aaaaaaaa');
      expect(text(join(version, 'bin/node'))).toBe('of node');
      expect(statSync(join(version, 'bin/node')).mode & 0o777).toBe(0o755);
      expect(text(join(host, 'bin/kybernate-runtime/kybernate-wrapper.mjs'))).toBe('of the wrapper');
      expect(text(join(host, 'bin/kybernate-runtime/kybernate-shim.conf'))).toContain('runc=/bin/true');
      expect(text(join(host, 'bin/kybernate-runtime/runc'))).toMatch(/^#!\/bin\/sh/);
      expect(text(launcher)).toMatch(/^#!\/bin\/sh/);
      expect(statSync(launcher).mode & 0o777).toBe(0o755);
      expect(text(join(disk, 'etc/containerd/conf.d/kybernate.toml'))).toContain(launcher);
      expect(text(config)).toContain('conf.d/kybernate.toml');
    });
  },
);
