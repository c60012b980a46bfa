/* The account that a sidecar becomes: a system user without a shell or a home, and its group. */
import { idOf } from '../../workers/accounts.ts';
import { runLong } from './long-command.ts';
import type { Installation, Step } from './step.ts';

const ACCOUNT = 'kybernate';

async function makeAccount({ env, logFile, progress }: Installation): Promise<void> {
  if (idOf('group', ACCOUNT) === undefined) {
    progress(`groupadd --system ${ACCOUNT}`);
    await runLong(['groupadd', '--system', ACCOUNT], { env, logFile });
  }
  if (idOf('user', ACCOUNT) === undefined) {
    progress(`useradd --system ${ACCOUNT}`);
    const none = ['--no-create-home', '--home-dir', '/nonexistent', '--shell', '/usr/sbin/nologin'];
    await runLong(['useradd', '--system', '--gid', ACCOUNT, ...none, ACCOUNT], { env, logFile });
  }
}

export const ACCOUNT_STEP: Step = {
  name: 'account',
  why: 'user and group that the sidecar becomes, which sends checkpoints to the store',
  // The demo and the tests take numbers, which need no account.
  neededFor: ['run'],
  remedy: `kybernate setup as root; or set KYBERNATE_SIDECAR_USER and KYBERNATE_GROUP, to names or numbers`,
  check: async () => {
    const user = idOf('user', ACCOUNT);
    const group = idOf('group', ACCOUNT);
    return user === undefined || group === undefined
      ? { ok: false, detail: `there is no ${user === undefined ? 'user' : 'group'} ${ACCOUNT}` }
      : { ok: true, detail: `user ${user}, group ${group}` };
  },
  install: makeAccount,
};
