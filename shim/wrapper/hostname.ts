/* Host names of UTS namespaces, by nsenter (util-linux): Node cannot enter a namespace, nsenter can, with no shell text. */
import { KybernateError } from '../../core/errors.ts';
import type { Run } from '../../native/run/run.ts';

const HOSTNAME_FILE = '/proc/sys/kernel/hostname';

/**
 * @param namespacePath of a UTS namespace
 * @throws Internal it cannot be read
 */
export async function readHostname(run: Run, namespacePath: string): Promise<string> {
  const result = await run('nsenter', [`--uts=${namespacePath}`, 'cat', HOSTNAME_FILE]);
  if (result.exitCode !== 0) {
    throw failed('read', namespacePath, result.startError ?? result.stderr);
  }
  return result.stdout.trim();
}

/**
 * @param namespacePath of a UTS namespace
 * @throws Internal it cannot be written
 */
export async function writeHostname(run: Run, namespacePath: string, name: string): Promise<void> {
  const result = await run('nsenter', [`--uts=${namespacePath}`, 'tee', HOSTNAME_FILE], { input: name });
  if (result.exitCode !== 0) {
    throw failed('write', namespacePath, result.startError ?? result.stderr);
  }
}

function failed(verb: string, namespacePath: string, why: string): KybernateError {
  return new KybernateError('Internal', `cannot ${verb} the host name of ${namespacePath} by nsenter: ${why.trim()}`);
}
