/* Is the Temporal server of this environment the one that the workers poll? */
import { get } from 'node:http';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { canConnect, hostAndPort, row, type Diagnosis, type DoctorInput } from './diagnosis.ts';

/** A server that answers is not yet the one that the workers poll: after `kybernate down` any other one on its port is used. */
export async function temporalServer(input: DoctorInput): Promise<Diagnosis[]> {
  const mine = `${input.temporalAddress}, namespace ${input.temporalNamespace}`;
  const health = await askAgent(join(input.runDir, 'agent.sock'));
  const theirs =
    health?.temporal === undefined ? undefined : `${health.temporal.address}, namespace ${health.temporal.namespace}`;
  const rows: Diagnosis[] = [];
  if (theirs !== undefined) {
    rows.push(
      row(
        'Temporal of the worker',
        theirs === mine,
        theirs === mine ? mine : `the node worker polls ${theirs}; commands here start operations at ${mine}`,
        'set TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE to those of the worker',
      ),
    );
  }
  if ((await canConnect(hostAndPort(input.temporalAddress))) === undefined) {
    rows.push(await pollers(input, mine));
  }
  return rows;
}

async function pollers(input: DoctorInput, server: string): Promise<Diagnosis> {
  const { countPollers } = await import('../connect.ts');
  const remedy = 'start `kybernate worker control` against this server, or name the right one by TEMPORAL_ADDRESS';
  try {
    const count = await countPollers(input.env, input.temporalAddress, input.temporalNamespace);
    const detail = `${count} control ${count === 1 ? 'worker polls' : 'workers poll'} ${server}`;
    return row('control workers', count > 0, count > 0 ? detail : `no control worker polls ${server}`, remedy, 'warn');
  } catch (error) {
    return row('control workers', false, `${server}: ${messageOf(error)}`, remedy, 'warn');
  }
}

interface AgentHealth {
  readonly temporal?: { readonly address: string; readonly namespace: string };
}

/** @returns undefined when none answers */
function askAgent(socketPath: string): Promise<AgentHealth | undefined> {
  return new Promise((resolve) => {
    const call = get({ socketPath, path: '/v1/health', agent: false, timeout: 2000 }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => (text += part));
      response.on('end', () => resolve(parsed(text)));
    });
    call.on('timeout', () => call.destroy());
    call.on('error', () => resolve(undefined));
  });
}

function parsed(text: string): AgentHealth | undefined {
  try {
    return JSON.parse(text) as AgentHealth;
  } catch {
    // Something else listens there; the row of the node worker tells whether it answers.
    return undefined;
  }
}
