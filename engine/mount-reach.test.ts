import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { OciSpec } from '../core/oci/spec.ts';
import { unreachableSources } from './mount-reach.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-reach-'));
  chmodSync(dir, 0o755);
  mkdirSync(join(dir, 'open/data'), { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true }));

function spec(hostID: number, ...sources: string[]): OciSpec {
  const mappings = [{ containerID: 0, hostID, size: 65_536 }];
  const mounts = sources.map((source) => ({ destination: source, type: 'bind', source, options: ['rbind'] }));
  return { mounts, linux: { namespaces: [{ type: 'user' }], uidMappings: mappings, gidMappings: mappings } };
}

it('names the outermost directory that the root of a user namespace may not walk through', () => {
  const sources = [join(dir, 'open/data'), join(dir, 'open/data/absent'), 'rootfs/etc/hosts', '/dev/null'];
  expect(unreachableSources(spec(100_000, ...sources))).toEqual([]);

  chmodSync(join(dir, 'open'), 0o700);

  expect(unreachableSources(spec(100_000, join(dir, 'open/data')))).toEqual([
    expect.stringContaining(
      `may not walk through ${join(dir, 'open')}, so CRIU could not make the mount again: chmod o+x`,
    ),
  ]);
});

it('leaves owners and containers without a user namespace alone', () => {
  chmodSync(join(dir, 'open'), 0o700);
  const source = join(dir, 'open/data');
  const own = process.getuid?.() ?? 0;

  expect(unreachableSources(spec(own, source))).toEqual([]);
  expect(unreachableSources({ mounts: [{ destination: '/d', type: 'bind', source }] })).toEqual([]);
});
