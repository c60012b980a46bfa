import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ImportStepInput, ImportStepResult } from '../../core/contract/import-checkpoint.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import { sampleMembers, sampleSpec, tarOf } from '../../test/harness/foreign-archive.ts';
import type { NodeActivityDeps } from './deps.ts';
import { importArchive } from './import-archive.ts';

let dir: string;
let root: string;
let deps: NodeActivityDeps;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-kubelet-'));
  root = join(dir, 'kubelet');
  mkdirSync(root, { mode: 0o755 });
  chmodSync(root, 0o755);
  deps = {
    node: { settings: { stateDir: dir } },
    catalog: localCatalog(join(dir, 'checkpoints')),
    kubeletCheckpoints: root,
  } as unknown as NodeActivityDeps;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** As containerd writes it for a pod of the namespace `ml`. */
function archive(name = 'checkpoint-web-0_ml-app-2026-03-01T00:00:00Z.tar', at = root): string {
  const annotations = {
    'io.kubernetes.cri.sandbox-namespace': 'ml',
    'io.kubernetes.cri.sandbox-name': 'web-0',
    'io.kubernetes.cri.container-name': 'app',
  };
  const members = sampleMembers();
  const content = JSON.stringify({ ...sampleSpec(), annotations, mounts: [] });
  members.set('spec.dump', { name: 'spec.dump', content });
  members.delete('volumes/v.tar');
  const path = join(at, name);
  writeFileSync(path, tarOf([...members.values()]), { mode: 0o600 });
  return path;
}

function load(path: string, input: Partial<ImportStepInput> = {}): Promise<ImportStepResult> {
  return importArchive(deps, testOp(), { archive: path, checkpointId: 'ck-web', labels: {}, ...input });
}

/** Every file is flushed, which a busy disk takes its time for. */
describe('the import of an archive of the kubelet', { timeout: 30_000 }, () => {
  it('makes a checkpoint that belongs to its pod, and finds it at a second attempt', async () => {
    const path = archive();

    const first = await load(path, { podNamespace: 'ml', labels: { team: 'x' } });
    const second = await load(path, { podNamespace: 'ml', labels: { team: 'x' } });

    expect(first).toMatchObject({
      checkpointId: 'ck-web',
      created: true,
      pod: { namespace: 'ml', name: 'web-0', container: 'app' },
    });
    expect(second).toEqual({ ...first, created: false });
    const { metadata } = await deps.catalog.get('ck-web');
    expect(metadata).toMatchObject({ labels: { team: 'x' }, container: { namespace: 'k8s.io' } });
  });

  it('refuses one of a pod of another namespace, whatever its name says, and leaves nothing', async () => {
    const path = archive('checkpoint-web-0_lab-app-2026-03-01T00:00:00Z.tar');

    await expect(load(path, { podNamespace: 'lab' })).rejects.toMatchObject({
      type: 'RestoreRefused',
      message: expect.stringContaining('a pod of namespace ml') as string,
    });

    expect(readdirSync(join(dir, 'checkpoints'))).toEqual([]);
  });

  it.each<[string, () => string]>([
    ['outside of the directory', () => archive('elsewhere.tar', dir)],
    [
      'that a link leads out to',
      () => {
        symlinkSync(archive('elsewhere.tar', dir), join(root, 'link.tar'));
        return join(root, 'link.tar');
      },
    ],
    ['that is not there', () => join(root, 'nobody.tar')],
    [
      'that others may write',
      () => {
        const path = archive();
        chmodSync(path, 0o666);
        return path;
      },
    ],
    [
      'that is a directory',
      () => {
        mkdirSync(join(root, 'sub'), { mode: 0o755 });
        return join(root, 'sub');
      },
    ],
  ])('refuses a path %s', async (_what, make) => {
    await expect(load(make())).rejects.toMatchObject({ type: 'RestoreRefused' });

    expect(existsSync(join(dir, 'checkpoints'))).toBe(false);
  });

  it('refuses every path where no directory of the kubelet is configured', async () => {
    const { kubeletCheckpoints: _none, ...without } = deps;
    deps = without;

    await expect(load(archive())).rejects.toMatchObject({ type: 'RestoreRefused' });
  });

  it('refuses what nobody has signed where signatures are required', async () => {
    deps = { ...deps, trust: { mode: 'required', keys: new Map() } };

    await expect(load(archive())).rejects.toMatchObject({ type: 'SignatureInvalid' });
  });

  it('names the file when the archive is damaged', async () => {
    const path = join(root, 'broken.tar');
    writeFileSync(path, 'no archive at all', { mode: 0o600 });

    await expect(load(path)).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('broken.tar: ') as string,
    });
  });
});
