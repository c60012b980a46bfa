/* Connects to Temporal by the typed client; loaded by the first command that needs it. */
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { createKybernateClient } from '../client/index.ts';
import { messageOf } from '../core/errors.ts';
import type { Environment } from './config.ts';
import { CliError } from './exit-codes.ts';
import type { Operations } from './operation.ts';

/** @throws TemporalUnreachable */
export async function connectOperations(env: Environment): Promise<Operations> {
  return reachable(env, () => createKybernateClient({ env }));
}

/** Only the values that are there, as Temporal's reader of the environment wants them. */
export function definedVariables(env: Environment): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** @throws TemporalUnreachable naming the address, for every reason why there is no connection */
export async function reachable<Result>(env: Environment, connect: () => Promise<Result>): Promise<Result> {
  try {
    return await connect();
  } catch (error) {
    const { address } = loadClientConnectConfig({ overrideEnvVars: definedVariables(env) }).connectionOptions;
    throw new CliError(
      'TemporalUnreachable',
      `no connection to the Temporal server at ${address ?? 'localhost:7233'}: ${messageOf(error)}`,
      { details: { address: address ?? 'localhost:7233' }, cause: error },
    );
  }
}
