import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { isKybernateError } from '../../core/errors.ts';
import { describeProgram, findProgram, requireProgram } from './programs.ts';
import { findVersion, isAtLeast } from './version.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-programs-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

/** A program that prints `output` whatever it is asked. */
function put(path: string, output: string): string {
  const file = join(dir, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `#!/bin/sh\ncat <<'EOF'\n${output}\nEOF\n`);
  chmodSync(file, 0o755);
  return file;
}

function env(path = join(dir, 'path')) {
  return { PATH: `${path}:/usr/bin:/bin`, KYBERNATE_CACHE: join(dir, 'cache') };
}

describe('findVersion reads the version that programs print', () => {
  it.each([
    ['Version: 4.2.1\nGitID: x', '4.2.1'],
    ['containerd github.com/containerd/containerd/v2 2.4.2+unknown ', '2.4.2'],
    ['runc version 1.5.2\nspec: 1.3.0', '1.5.2'],
    ['go1.26', '1.26'],
    ['Version  : git', undefined],
  ])('%j', (text, version) => {
    expect(findVersion(text)).toBe(version);
  });
});

it.each([
  ['4.2', '4.2.0', true],
  ['4.10', '4.9', true],
  ['4.2.1', '4.2', true],
  ['4.1.9', '4.2', false],
  ['1.29.1', '1.29', true],
])('%s is enough where %s is the least: %s', (version, minimum, enough) => {
  expect(isAtLeast(version, minimum)).toBe(enough);
});

describe('a program', () => {
  it('on PATH is used when it is new enough', () => {
    const criu = put('path/criu', 'Version: 4.3');
    put('cache/programs/criu-4.2.1/sbin/criu', 'Version: 4.2.1');

    expect(describeProgram('criu', env())).toEqual({ path: criu, version: '4.3', from: 'path' });
  });

  it('on PATH that is too old gives way to the cache', () => {
    put('path/criu', 'Version: 3.17.1');
    const cached = put('cache/programs/criu-4.2.1/sbin/criu', 'Version: 4.2.1');

    expect(findProgram('criu', env())).toBe(cached);
  });

  it('on PATH that does not tell its version gives way to the cache', () => {
    put('path/runc', 'hello');
    const cached = put('cache/programs/runc-1.5.2/bin/runc', 'runc version 1.5.2');

    expect(findProgram('runc', env())).toBe(cached);
  });

  it('of another version in the cache is not used', () => {
    put('cache/programs/criu-4.1.0/sbin/criu', 'Version: 4.1.0');

    expect(findProgram('criu', env('/nonexistent'))).toBeUndefined();
  });

  it('that is missing is found after it was installed', () => {
    const settings = env('/nonexistent');

    expect(findProgram('criu', settings)).toBeUndefined();
    put('cache/programs/criu-4.2.1/sbin/criu', 'Version: 4.2.1');
    expect(findProgram('criu', settings)).toBeDefined();
  });

  it('named bridge on PATH is not taken for the CNI plug-in', () => {
    put('path/bridge', 'bridge utility, iproute2-6.1.0');
    const plugin = put('cache/programs/cni-1.9.1/bin/bridge', '');

    expect(findProgram('bridge', env())).toBe(plugin);
  });

  it('of Temporal counts by its server: a CLI built from source calls itself 0.0.0-DEV', () => {
    const path = put('path/temporal', 'temporal version 0.0.0-DEV (Server 1.29.1, UI 2.42.1)');

    expect(describeProgram('temporal', env())).toEqual({ path, version: '1.29.1', from: 'path' });
  });

  it('that is required and missing is Incompatible and names the set-up command', () => {
    let error: unknown;
    try {
      requireProgram('criu', env('/nonexistent'));
    } catch (thrown) {
      error = thrown;
    }

    expect(isKybernateError(error, 'Incompatible')).toBe(true);
    expect(String(error)).toContain('kybernate setup');
  });
});
