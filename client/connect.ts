/* The connection of a client: its caller's, or one of its own by TEMPORAL_* and temporal.toml. */
import { Connection, type ConnectionLike, type WorkflowClientInterceptor } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';

export interface KybernateClientOptions {
  /** an open connection, a worker's too; it stays the caller's to close */
  readonly connection?: ConnectionLike;
  /** `host:port`; what TEMPORAL_* and temporal.toml say otherwise */
  readonly address?: string;
  /** TEMPORAL_NAMESPACE or the profile's otherwise, `default` at last */
  readonly namespace?: string;
  /** read instead of the process's environment */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** see every call to Temporal: traces, for example */
  readonly interceptors?: readonly WorkflowClientInterceptor[];
}

export async function connect(
  options: KybernateClientOptions,
): Promise<{ connection: ConnectionLike; namespace: string }> {
  if (options.connection !== undefined) {
    return { connection: options.connection, namespace: options.namespace ?? 'default' };
  }
  const env = options.env === undefined ? {} : { overrideEnvVars: present(options.env) };
  const config = loadClientConnectConfig(env);
  const address = options.address === undefined ? {} : { address: options.address };
  return {
    connection: await Connection.connect({ ...config.connectionOptions, ...address }),
    namespace: options.namespace ?? config.namespace ?? 'default',
  };
}

function present(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((pair): pair is [string, string] => pair[1] !== undefined));
}
