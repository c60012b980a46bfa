/* The account that a sidecar becomes: a system user without a shell or a home, and its group. */
import { idOf } from '../../workers/accounts.ts';
import { runLong } from './long-command.ts';
import type { Env } from './programs.ts';
import type { Installation, Step } from './step.ts';

/** As a sidecar that is started here finds them. */
function namesOf(env: Env): { user: string; group: string } {
  return { user: env['KYBERNATE_SIDECAR_USER'] || 'kybernate', group: env['KYBERNATE_GROUP'] || 'kybernate' };
}

async function makeAccount({ env, logFile, progress }: Installation): Promise<void> {
  const { user, group } = namesOf(env);
  if (idOf('group', group) === undefined) {
    progress(`groupadd --system ${group}`);
    await runLong(['groupadd', '--system', group], { env, logFile });
  }
  if (idOf('user', user) === undefined) {
    progress(`useradd --system ${user}`);
    const none = ['--no-create-home', '--home-dir', '/nonexistent', '--shell', '/usr/sbin/nologin'];
    // A number need not have a name; useradd wants one, so the user has a group of its own name then.
    const ofUser = /^\d+$/.test(group) ? ['--user-group'] : ['--gid', group];
    await runLong(['useradd', '--system', ...ofUser, ...none, user], { env, logFile });
  }
}

export const ACCOUNT_STEP: Step = {
  name: 'account',
  why: 'user and group that the sidecar becomes, which sends checkpoints to the store',
  // The demo and the tests take numbers, which need no account.
  neededFor: ['run'],
  remedy: `kybernate setup as root; or set KYBERNATE_SIDECAR_USER and KYBERNATE_GROUP, to names or numbers`,
  check: async (env) => {
    const names = namesOf(env);
    const user = idOf('user', names.user);
    const group = idOf('group', names.group);
    return user === undefined || group === undefined
      ? { ok: false, detail: `there is no ${user === undefined ? `user ${names.user}` : `group ${names.group}`}` }
      : { ok: true, detail: `user ${user}, group ${group}` };
  },
  install: makeAccount,
};
