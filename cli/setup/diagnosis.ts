/* One row of `kybernate doctor`, and what its checks share. */
import { connect } from 'node:net';
import type { Run } from '../../native/run/run.ts';
import type { Env } from './programs.ts';

export interface Diagnosis {
  readonly name: string;
  /** `warn`: works, but somebody should know */
  readonly state: 'ok' | 'warn' | 'fail';
  readonly detail: string;
  /** what to do; with `warn` and `fail` */
  readonly remedy?: string;
}

export interface DoctorInput {
  readonly env: Env;
  readonly run: Run;
  readonly runDir: string;
  readonly stateDir: string;
  readonly containerdAddress: string;
  /** `host:port` of the server that commands of this environment use */
  readonly temporalAddress: string;
  readonly temporalNamespace: string;
}

export type Examine = (input: DoctorInput) => Promise<Diagnosis[]> | Diagnosis[];

/** @param bad what a row that is not right is */
export function row(
  name: string,
  ok: boolean,
  detail: string,
  remedy: string,
  bad: 'warn' | 'fail' = 'fail',
): Diagnosis {
  return ok ? { name, state: 'ok', detail } : { name, state: bad, detail, remedy };
}

/** @returns why nobody answers there; undefined when somebody does */
export function canConnect(target: { path: string } | { host: string; port: number }): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(target);
    const end = (problem: string | undefined): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.setTimeout(2000, () => end('no answer within 2 s'));
    socket.once('connect', () => end(undefined)).once('error', (error) => end(error.message));
  });
}

export function hostAndPort(address: string): { host: string; port: number } {
  const [host = '', port = ''] = address.split(/:(?=\d+$)/);
  return { host, port: Number(port || 7233) };
}
