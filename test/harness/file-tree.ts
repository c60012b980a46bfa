/* A directory tree as comparable text: every fact of every entry that a checkpoint must bring back. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { listXattrs, getXattr } from '../../native/libc/xattr.ts';
import { nameOfBytes, pathBelow } from '../../engine/byte-names.ts';

/** One line an entry, in the order of names; hard links are named by the first name of their file. */
export function fileTree(root: string, skip: readonly string[] = [], timeUnitMs = 1): string[] {
  const lines: string[] = [];
  const firstNames = new Map<string, string>();
  const visit = (dir: string): void => {
    for (const entry of readdirSync(pathBelow(root, dir), { encoding: 'buffer', withFileTypes: true })) {
      const base = nameOfBytes(entry.name);
      const name = dir === '' ? base : `${dir}/${base}`;
      if (skip.includes(name)) {
        continue;
      }
      const path = pathBelow(root, name);
      const stats = lstatSync(path);
      const inode = `${stats.dev}:${stats.ino}`;
      const facts = [
        `${stats.mode.toString(8)} ${stats.uid}:${stats.gid}`,
        ...(stats.isFile()
          ? [createHash('sha1').update(readFileSync(path)).digest('hex'), `m${Math.floor(stats.mtimeMs / timeUnitMs)}`]
          : []),
        ...(stats.isSymbolicLink() ? [`-> ${readlinkSync(path)}`] : []),
        ...(stats.isCharacterDevice() || stats.isBlockDevice() ? [`rdev ${stats.rdev}`] : []),
        ...listXattrs(path)
          .filter((attribute) => !attribute.startsWith('trusted.overlay.'))
          .map((attribute) => `${attribute}=${Buffer.from(getXattr(path, attribute) ?? []).toString('hex')}`)
          .sort((left, right) => left.localeCompare(right)),
      ];
      if (stats.isFile() && stats.nlink > 1) {
        const first = firstNames.get(inode) ?? name;
        firstNames.set(inode, first);
        facts.push(`one with ${first}`);
      }
      lines.push(`${name} ${facts.join(' ')}`);
      if (stats.isDirectory()) {
        visit(name);
      }
    }
  };
  visit('');
  return lines.sort((left, right) => (left < right ? -1 : 1));
}
