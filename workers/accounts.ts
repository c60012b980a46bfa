/* Users and groups of this machine, by the two files that every Linux has: no library to ask, no network. */
import { readFileSync } from 'node:fs';

const FILES = { user: '/etc/passwd', group: '/etc/group' } as const;

/**
 * @param account name or number; a number needs no entry
 * @returns undefined when there is no such name
 */
export function idOf(kind: keyof typeof FILES, account: string): number | undefined {
  if (/^\d+$/.test(account)) {
    return Number(account);
  }
  // Both files have the name first and the number third.
  const line = readFileSync(FILES[kind], 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${account}:`));
  const id = Number(line?.split(':')[2]);
  return line === undefined || !Number.isInteger(id) ? undefined : id;
}
