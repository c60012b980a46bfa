/* A look before anything is touched, at a real checkpoint: every reason at once, and nothing left of a refused restore. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { PreflightRequest, PreflightResult } from '../../core/contract/preflight.ts';
import { nothingLeft } from '../harness/aftermath.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';

const PORT = 7003;
let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open();
});
afterAll(async () => {
  await stack.close();
});

async function preflight(request: Partial<PreflightRequest>): Promise<PreflightResult> {
  const handle = await stack.client.preflight({ node: stack.node, ...request });
  return handle.result();
}

const told = ({ findings }: PreflightResult): string[] => findings.map(({ code, severity }) => `${code} ${severity}`);

test('a preflight tells every reason at once, a restore is refused for them, and nothing is left of either', async () => {
  const network = await makeNetworkNamespace('kybflight', 18);
  const volume = join(stack.dir, 'volume');
  mkdirSync(volume);
  try {
    const mount = ['--mount', `type=bind,src=${volume},dst=/volume,options=rbind:rw`];
    const flags = [...workload(), ...mount, '--with-ns', `network:${network.path}`];
    await stack.runContainer('flight', PYTHON, ['/usr/bin/python3', '/w/echo.py', String(PORT)], flags);
    await until('the server', async () => (await stack.exec('flight', '/bin/cat', '/proc/net/tcp')).includes(' 0A '));
    const container = { id: 'flight', namespace: stack.namespace };

    const source = await preflight({ container });
    expect(source).toMatchObject({ fits: true, container });
    const { checkpointId, localPath } = await stack.checkpoint('flight', { durability: 'remote' });
    await nothingLeft(stack, [checkpointId]);

    // The source runs on, in the namespace that the copy would join.
    expect(told(await preflight({ checkpointId }))).toEqual(['ports error', 'name error']);
    const file = join(localPath, 'metadata.json');
    const metadata = JSON.parse(readFileSync(file, 'utf8')) as Metadata;
    expect(metadata.capture.listening).toEqual([{ address: '0.0.0.0', port: PORT }]);
    const node = { ...metadata.node, kernel: '99.1.0', cpuFlags: [...metadata.node.cpuFlags, 'avx99'] };
    writeFileSync(file, JSON.stringify({ ...metadata, node, security: { lsm: 'apparmor', label: 'strict' } }));
    rmSync(volume, { recursive: true });
    writeFileSync(volume, '');

    const result = await preflight({ checkpointId, as: { id: 'flight-back' } });
    expect(told(result)).toEqual(['cpu-features', 'kernel', 'lsm', 'mounts', 'ports'].map((code) => `${code} error`));
    expect(result.fits).toBe(false);
    expect(result.checkMs).toBeLessThan(1000);
    const refused = stack.restore(checkpointId, 'flight-back', { source: 'local' });
    await expect(refused).rejects.toMatchObject({
      type: 'Incompatible',
      details: { reasons: result.findings.map(({ message }) => message) },
    });
    await nothingLeft(stack, [checkpointId]);
    expect(await stack.ctr('containers', 'ls', '-q')).not.toContain('flight-back');

    // What the store says of itself is as it was written.
    rmSync(volume);
    mkdirSync(volume);
    const stored = await preflight({ checkpointId, source: 'store' });
    expect(stored.from).toBe('store');
    expect(told(stored)).toEqual(['ports error', 'name error']);
    await stack.removeContainer('flight');
    expect(await preflight({ checkpointId, source: 'store' })).toMatchObject({ fits: true, findings: [] });
  } finally {
    await network.remove();
  }
});
