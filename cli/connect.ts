import { CliError } from './exit-codes.ts';
import type { Operations } from './operation.ts';
import type { Environment } from './config.ts';
export async function connectOperations(env: Environment): Promise<Operations> {
  throw new CliError('TemporalUnreachable', `not yet ${env['x'] ?? ''}`);
}
