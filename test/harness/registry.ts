/* A private image registry, CNCF distribution, over a directory of the test and on a loopback port. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { logTail, startDaemon, stopDaemon } from '../../cli/dev/process.ts';
import { answers, freePort, waitFor } from '../../cli/dev/wait.ts';
import { requireProgram } from '../../cli/setup/programs.ts';

const NAME = 'registry';

export interface Registry {
  /** `127.0.0.1:<port>`, without TLS */
  readonly address: string;
  /** The directory stays. */
  close(): Promise<void>;
}

export async function startRegistry(dir: string): Promise<Registry> {
  mkdirSync(dir, { recursive: true });
  const address = `127.0.0.1:${await freePort()}`;
  const file = join(dir, 'registry.json');
  // YAML reads JSON.
  const settings = {
    version: 0.1,
    log: { level: 'warn' },
    storage: { filesystem: { rootdirectory: join(dir, 'data') } },
    http: { addr: address },
  };
  writeFileSync(file, JSON.stringify(settings));
  const record = await startDaemon(dir, {
    name: NAME,
    file: requireProgram('docker-registry', process.env),
    args: ['serve', file],
    env: { PATH: process.env['PATH'], HOME: dir },
  });
  const url = `http://${address}/v2/`;
  await waitFor(
    'answer from the registry',
    20_000,
    () => answers(url),
    () => `\n${logTail(record.logFile)}`,
  );
  return {
    address,
    close: async () => {
      await stopDaemon(dir, NAME);
    },
  };
}
