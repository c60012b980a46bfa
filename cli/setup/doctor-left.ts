/* What dead operations left on this node: operations without a runner, half-made files, locks, leases, pending uploads. */
import { existsSync, readdirSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { parseByteSize } from '../../core/byte-size.ts';
import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { runnerPid } from '../../engine/runner-process.ts';
import { mayBeFrozen, readJournal } from '../../engine/journal.ts';
import { listOperations, operationPaths } from '../../engine/operation.ts';
import { survey } from '../../engine/rescue/rescue.ts';
import { DIFF_PREFIX } from '../../engine/rootfs-diff-service.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import { openGpuDriver } from '../../native/cuda/open.ts';
import { gpuLibraries } from '../gpu-node.ts';
import { formatBytes } from '../units.ts';
import { canConnect, row, type Diagnosis, type DoctorInput } from './diagnosis.ts';

/** Operations whose runner is gone. One that may be frozen stands still until a node worker undoes it. */
export async function leftOperations({ runDir }: DoctorInput): Promise<Diagnosis[]> {
  const rows: Diagnosis[] = [];
  for (const operationId of await listOperations({ runDir })) {
    const paths = operationPaths({ runDir }, operationId);
    if (runnerPid(paths) !== undefined) {
      continue;
    }
    const frozen = mayBeFrozen(readJournal(paths.journal));
    const rescue = ', or `kybernate rescue --apply` where none can be started';
    const detail = `${paths.dir} has no live runner; its workload ${frozen ? 'may be frozen' : 'is not frozen'}`;
    const remedy = frozen
      ? `start \`kybernate worker node\` now: it lets the workload go at its start${rescue}`
      : 'nothing while a node worker runs: it removes the directory when the workflow is closed';
    rows.push(row(`operation ${operationId}`, false, detail, remedy, frozen ? 'fail' : 'warn'));
  }
  return rows.length > 0 ? rows : [{ name: 'operations', state: 'ok', detail: 'none without a live runner' }];
}

/** Everything else that dead operations leave; `kybernate rescue` repairs what can be. */
export async function leftTraces({ env, run, runDir, stateDir }: DoctorInput): Promise<Diagnosis[]> {
  const quiet = (): void => undefined;
  const log = { debug: quiet, info: quiet, warn: quiet, error: quiet };
  const gpu = (): ReturnType<typeof openGpuDriver> => openGpuDriver(gpuLibraries(env));
  const { findings, unseen } = await survey({
    settings: { runDir, stateDir },
    run,
    gpu,
    log,
    containerd: connectContainerd,
  });
  const rows = findings
    .filter(({ kind, state }) => kind !== 'operation' && kind !== 'restore' && state !== 'on purpose')
    .map(({ kind, id, state, detail, remedy }) =>
      row(`${kind} ${id}`, false, detail, remedy, state === 'stands still' ? 'fail' : 'warn'),
    );
  const held = findings.filter(({ state }) => state === 'on purpose').map(({ id, detail }) => `${id}: ${detail}`);
  return [
    ...rows,
    ...unseen.map((what) => row('left-overs', false, `not looked at: ${what}`, 'run this as root', 'warn')),
    ...(rows.length + unseen.length === 0
      ? [{ name: 'left-overs', state: 'ok' as const, detail: ['none', ...held].join('; ') }]
      : []),
  ];
}

/** Kept on purpose, within their limits. */
export function savedLogs({ stateDir }: DoctorInput): Diagnosis[] {
  const counts = ['failed', 'logs'].map((name) => {
    const dir = join(stateDir, name);
    return { dir, count: existsSync(dir) ? readdirSync(dir).length : 0 };
  });
  const detail = counts.map(({ dir, count }) => `${count} in ${dir}`).join(', ');
  return [{ name: 'logs of failures', state: 'ok', detail }];
}

/** What a capture of a container without an upper directory, or a restore, has asked containerd to keep. */
export async function containerdObjects({ containerdAddress, env }: DoctorInput): Promise<Diagnosis[]> {
  if ((await canConnect({ path: containerdAddress })) !== undefined) {
    return [];
  }
  const containerd = connectContainerd(containerdAddress);
  try {
    const names = [...new Set(['default', 'k8s.io', 'moby', env['CONTAINERD_NAMESPACE'] || 'default'])];
    const left: string[] = [];
    for (const namespace of names) {
      const leases = await containerd.listLeases(namespace);
      left.push(...leases.filter((id) => id.startsWith(DIFF_PREFIX)).map((id) => `${namespace}/${id}`));
    }
    const detail = left.length === 0 ? 'no lease of ours' : `leases, each with a snapshot: ${left.join(', ')}`;
    const remedy = 'nothing while a checkpoint runs; else `ctr leases rm`, or they expire within a day';
    return [row('containerd leases', left.length === 0, detail, remedy, 'warn')];
  } finally {
    containerd.close();
  }
}

export function diskSpace({ env, stateDir }: DoctorInput): Diagnosis[] {
  const floor = parseByteSize(env['KYBERNATE_MIN_FREE_BYTES'] || '512MiB') ?? 0;
  if (!existsSync(stateDir)) {
    return [];
  }
  const { bavail, bsize } = statfsSync(stateDir);
  const free = bavail * bsize;
  const detail = `${formatBytes(free)} free below ${stateDir}, ${formatBytes(floor)} stay free`;
  return [
    row('disk', free > floor, detail, 'free some: `kybernate rm --local`, or lower KYBERNATE_MIN_FREE_BYTES', 'warn'),
  ];
}

export function pendingUploads({ stateDir }: DoctorInput): Diagnosis[] {
  const dir = join(stateDir, 'checkpoints');
  const pending = (existsSync(dir) ? readdirSync(dir) : []).filter((name) =>
    existsSync(join(dir, name, OWN_FILES.uploadPending)),
  );
  const ids = pending.map((name) => name.replace(/^checkpoint-/, '')).join(', ');
  return [
    row(
      'uploads',
      pending.length === 0,
      pending.length === 0 ? 'none pending' : `on this node only so far: ${ids}`,
      'nothing while their workflows run; see `kybernate ls`, and whether the store answers',
      'warn',
    ),
  ];
}
