/* The bundle of a restore that another engine asks for. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { prepareForeignRestore } from './foreign-restore.ts';

let dir = '';
let config = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'foreign-restore-'));
  config = join(dir, 'config.json');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const argv = ['--root', '/r', 'restore', '--detach', '--image-path', '/i', '--pid-file', '/p', '-b', '.', 'id'];

describe('prepareForeignRestore', () => {
  it('has the loopback of an own network namespace brought up, once, and keeps the rest to the last digit', () => {
    const namespaces = [{ type: 'pid' }, { type: 'network' }];
    const text = JSON.stringify({ linux: { namespaces }, hooks: { createRuntime: [{ path: '/own' }] } });
    writeFileSync(config, text.replace('}', ',"limit":18446744073709551615}'), { mode: 0o640 });

    prepareForeignRestore(argv, dir);
    prepareForeignRestore(argv, dir);

    const written = readFileSync(config, 'utf8');
    expect((JSON.parse(written) as { hooks: unknown }).hooks).toEqual({
      createRuntime: [{ path: '/own' }, { path: '/bin/sh', args: expect.arrayContaining(['-c']) as string[] }],
    });
    expect(written).toContain('18446744073709551615');
    expect(statSync(config).mode & 0o777).toBe(0o640);
  });

  it('leaves a network that others have made alone, and says nothing where there is no bundle', () => {
    const text = JSON.stringify({ linux: { namespaces: [{ type: 'network', path: '/run/netns/x' }] } });
    writeFileSync(config, text);

    prepareForeignRestore(argv, dir);
    prepareForeignRestore(argv, join(dir, 'nowhere'));

    expect(readFileSync(config, 'utf8')).toBe(text);
  });
});
