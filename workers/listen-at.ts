import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { KybernateError } from '../core/errors.ts';

/**
 * @param address `host:port`; port 0 asks for any
 * @param variable that says it
 * @returns where it answers
 * @throws InvalidInput it is taken, or not of this machine
 */
export function listenAt(server: Server, address: string, variable: string): Promise<string> {
  const at = address.lastIndexOf(':');
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      reject(new KybernateError('InvalidInput', `${variable}: cannot listen on ${address}: ${error.message}`));
    });
    server.listen(Number(address.slice(at + 1)), host, () => {
      resolve(`${host}:${(server.address() as AddressInfo).port}`);
    });
  });
}
