import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { idOf } from './accounts.ts';
import { OpenDirectories } from './privileges.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-open-'));
  mkdirSync(join(dir, 'in/side'), { recursive: true });
  writeFileSync(join(dir, 'in/side/file'), 'content');
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('OpenDirectories', () => {
  it('reaches a directory by its own path where it can', () => {
    const open = new OpenDirectories();
    open.add(join(dir, 'in/side'));

    expect(open.pathOf(join(dir, 'in/side'))).toBe(join(dir, 'in/side'));
    open.close();
  });

  it('goes on reaching one whose path leads there no more', () => {
    const open = new OpenDirectories();
    const path = join(dir, 'in/side');
    open.add(path);
    renameSync(join(dir, 'in'), join(dir, 'elsewhere'));

    expect(open.pathOf(path)).toMatch(/^\/proc\/self\/fd\/\d+$/);
    expect(readFileSync(join(open.pathOf(path), 'file'), 'utf8')).toBe('content');
    open.close();
  });

  it('says which directory cannot be opened', () => {
    expect(() => new OpenDirectories().add(join(dir, 'absent'))).toThrow(join(dir, 'absent'));
  });
});

describe('idOf', () => {
  it('knows root by name, takes numbers as they are, and knows no name that is not there', () => {
    expect(idOf('user', 'root')).toBe(0);
    expect(idOf('group', 'root')).toBe(0);
    expect(idOf('user', '58711')).toBe(58_711);
    expect(idOf('user', 'no-such-user')).toBeUndefined();
    expect(idOf('user', 'roo')).toBeUndefined();
  });
});
