/* The commands that only root can do refuse before they do anything. */
import { KybernateError } from '../core/errors.ts';
import type { Cli } from './cli.ts';

export const RUN_AS_ROOT = 'run it as root (sudo)';

/**
 * @param command as the user wrote it, for the message
 * @throws InvalidInput this process is not root's
 */
export function needsRoot(cli: Pick<Cli, 'isRoot'>, command: string): void {
  if (!cli.isRoot) {
    throw new KybernateError('InvalidInput', `\`kybernate ${command}\` needs root; nothing was done`, {
      details: { remedy: RUN_AS_ROOT },
    });
  }
}
