/* What a real containerd tells of its CRI plug-in: one that works, one whose configuration it cannot use, and none. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startContainerd, stopContainerd } from '../../cli/dev/containerd.ts';
import { startDaemon, stopDaemon } from '../../cli/dev/process.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { type CriState, criState } from '../../native/containerd/cri.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync('/tmp/kyb-cri-');
});
afterEach(async () => {
  await stopContainerd(dir, process.env);
  rmSync(dir, { recursive: true, force: true });
});

/** A plug-in that works answers when it has started. */
async function eventually(address: string): Promise<CriState> {
  for (;;) {
    try {
      return await criState(address);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

it('is loaded with its runtimes, and has failed, with the reason, where containerd answers all the same', async () => {
  const { address, path } = await startContainerd({ dir, env: process.env, runDir: join(dir, 'run'), cri: {} });
  const loaded = await eventually(address);
  await stopDaemon(dir, 'containerd');
  const file = join(dir, 'containerd.toml');
  const broken = `[plugins.'io.containerd.cri.v1.runtime'.containerd]\n  default_runtime_name = "nobody"\n`;
  writeFileSync(file, `${readFileSync(file, 'utf8')}${broken}`);
  await startDaemon(dir, {
    name: 'containerd',
    file: requireProgram('containerd', process.env),
    args: ['--config', file],
    env: { ...process.env, PATH: path },
    facts: { address },
  });

  expect(loaded).toMatchObject({ plugin: 'loaded' });
  expect(loaded.plugin === 'loaded' ? [...(loaded.runtimes?.keys() ?? [])].sort() : []).toEqual(['kybernate', 'runc']);
  expect(await eventually(address)).toMatchObject({
    plugin: 'failed',
    error: expect.stringMatching(/^io\.containerd\..*nobody/) as string,
  });
});

it('is off where it is among the disabled plug-ins', async () => {
  const { address } = await startContainerd({ dir, env: process.env, runDir: join(dir, 'run') });

  expect(await eventually(address)).toEqual({ plugin: 'off' });
});
