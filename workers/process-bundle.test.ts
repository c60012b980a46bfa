import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import type { NodeSettings } from '../engine/node-deps.ts';
import { nodeEnv, nodeSettings, readConfig } from './config.ts';
import { withBundles } from './process-bundle.ts';

const plain: NodeSettings = nodeSettings(readConfig(nodeEnv, {}));

describe('withBundles', () => {
  it('starts runner and guard from one file each, with the variables of the settings', async () => {
    const { runnerCommand, guardCommand = [] } = await withBundles(plain);

    expect(runnerCommand.slice(0, -1)).toEqual(plain.runnerCommand.slice(0, -1));
    expect(runnerCommand.at(-1)).toMatch(/\/runner-[0-9a-f]{16}\.mjs$/);
    expect(guardCommand.at(-1)).toMatch(/\/guard-[0-9a-f]{16}\.mjs$/);
  });

  it('leaves a node without a guard without one', async () => {
    const { guardCommand: _none, ...bare } = plain;

    expect(await withBundles(bare)).not.toHaveProperty('guardCommand');
  });

  it.each(['runner', 'guard'] as const)(
    'a %s that waits for its operation ends when its worker is gone',
    async (role) => {
      const bundled = await withBundles(plain);
      const [, ...words] = role === 'runner' ? bundled.runnerCommand : (bundled.guardCommand ?? []);
      const child = spawn('/usr/bin/env', [...words, '-'], { stdio: ['pipe', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.on('data', (text: Buffer) => (said += text.toString()));

      child.stdin.end();

      expect({ end: await once(child, 'exit'), said }).toEqual({ end: [0, null], said: '' });
    },
  );
});
