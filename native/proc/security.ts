/* Linux security modules. Sources: proc_pid_attr(5), security/apparmor/apparmorfs.c, libselinux. */
import { existsSync } from 'node:fs';
import { readProc } from './read.ts';

export type Lsm = 'none' | 'apparmor' | 'selinux';

/** The module that labels processes on this machine. */
export function activeLsm(): Lsm {
  if (readProc('/sys/module/apparmor/parameters/enabled')?.trim() === 'Y') {
    return 'apparmor';
  }
  return existsSync('/sys/fs/selinux/enforce') ? 'selinux' : 'none';
}

/** AppArmor writes `profile (mode)`, SELinux a label that may end with a zero byte. */
export function parseSecurityLabel(text: string): string {
  const label = text.replace(/\0.*$/s, '').trim();
  return label === '' ? 'unconfined' : label.replace(/ \((?:enforce|complain|kill|unconfined|mixed)\)$/, '');
}

/** What confines a process. */
export function securityOf(hostPid: number): { readonly lsm: Lsm; readonly label: string } {
  const lsm = activeLsm();
  const label = lsm === 'none' ? undefined : readProc(`/proc/${hostPid}/attr/current`);
  return { lsm, label: parseSecurityLabel(label ?? '') };
}

/** Names of the AppArmor profiles that are loaded; undefined when securityfs is not mounted. */
export function apparmorProfiles(): ReadonlySet<string> | undefined {
  const text = readProc('/sys/kernel/security/apparmor/profiles');
  return text === undefined
    ? undefined
    : new Set(
        text
          .split('\n')
          .filter((line) => line !== '')
          .map(parseSecurityLabel),
      );
}
