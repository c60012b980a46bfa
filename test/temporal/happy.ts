/* What every step answers where a scenario says nothing else. */
import type {
  ControlActivities,
  FetchActivities,
  GarbageActivities,
  NodeActivities,
  NodeControlActivities,
  TransferActivities,
  VerifyActivities,
} from '../../activities/contract.ts';
import { STEP_PROTOCOL_VERSION, type NodeFacts, type PhaseTimes } from '../../core/contract/checkpoint.ts';
import type { PlaceReport, VerifyMode } from '../../core/contract/verify.ts';

const FACTS: NodeFacts = {
  node: 'node-a',
  hostname: 'node-a',
  kernel: '6.1.0',
  arch: 'x86_64',
  cpuModel: 'test',
  cpuFlags: [],
  cgroupVersion: 2,
  criuVersion: '4.2.1',
  runcVersion: '1.5.2',
  containerdVersion: '2.4.2',
};
const PHASES: PhaseTimes = { freezeMs: 12, totalMs: 20, unaccountedMs: 0, parts: { freeze: 1, dump: 11 } };

export function wholeCopy(place: 'store' | 'node', where: string, mode: VerifyMode = 'full'): PlaceReport {
  const bytes = mode === 'full' ? 1000 : 0;
  return {
    place,
    where,
    found: true,
    ok: true,
    merkleRoot: 'ab'.repeat(32),
    files: 9,
    bytes,
    problems: [],
    problemCount: 0,
  };
}

type Scripted = NodeActivities &
  NodeControlActivities &
  FetchActivities &
  VerifyActivities &
  GarbageActivities &
  TransferActivities &
  Pick<ControlActivities, 'findCheckpoint' | 'olderStored'>;

export const happyActivities: Scripted = {
  condemnGarbage: () =>
    Promise.resolve({
      store: 's3://bucket',
      checkpoints: 2,
      stored: { packs: 9, bytes: 9000 },
      garbage: { packs: 2, bytes: 2000 },
      young: { packs: 0, bytes: 0 },
      objects: 0,
      more: false,
      listId: 'gc-x',
      lists: 2,
    }),
  confirmGarbage: () =>
    Promise.resolve({
      waitingFor: [],
      expired: false,
      confirmed: { packs: 2, bytes: 2000 },
      kept: { packs: 0, bytes: 0 },
      objects: 0,
    }),
  deleteGarbage: () => Promise.resolve(),
  forgetGarbage: () => Promise.resolve(),
  removeStored: () => Promise.resolve({ found: true, freedBytes: 900, keptPacks: 1 }),
  checkUnused: () => Promise.resolve(),
  removeCopy: () => Promise.resolve({ found: true }),
  sweepLeftovers: () => Promise.resolve({ indexes: 0, lists: 0, halfMade: 0 }),
  probeNode: ({ container }) =>
    Promise.resolve({
      facts: FACTS,
      protocolVersion: STEP_PROTOCOL_VERSION,
      newestToken: 0,
      store: 's3://bucket',
      ...(container === undefined
        ? {}
        : { container: { namespace: container.namespace ?? 'default', id: container.id ?? 'pod-c', initHostPid: 42 } }),
    }),
  planCheckpoint: () =>
    Promise.resolve({
      estimatedBytes: 1000,
      processes: 1,
      gpuProcesses: 0,
      vramBytes: 0,
      criuOptions: [],
      warnings: ['plan'],
    }),
  startRunner: () => Promise.resolve(),
  saveGpuState: () => Promise.resolve({ gpuProcesses: 0, vramBytes: 0, durationMs: 1, parts: {} }),
  captureContainer: () => Promise.resolve({ phases: PHASES, imageBytes: 900, rootfsBytes: 100, warnings: ['capture'] }),
  resumeContainer: () => Promise.resolve({ source: 'running', checks: { thawed: true } }),
  stopContainer: () => Promise.resolve({ source: 'stopped', checks: { gone: true } }),
  endOperation: () => Promise.resolve(),
  discardCapture: () => Promise.resolve(),
  recordRehearsal: () => Promise.resolve(),
  abandonUpload: () => Promise.resolve(),
  confirmUpload: () => Promise.resolve(),
  commitLocal: ({ context }) =>
    Promise.resolve({
      localPath: `/var/lib/kybernate/checkpoints/checkpoint-${context.checkpointId}`,
      totalBytes: 1000,
      files: 9,
      merkleRoot: 'ab'.repeat(32),
    }),
  uploadImage: () => Promise.resolve({ sentBytes: 700, newChunks: 3, reusedChunks: 1 }),
  publishManifest: ({ checkpointId }) =>
    Promise.resolve({ remote: `s3://bucket/checkpoints/${checkpointId}/manifest.json` }),
  surveyStored: ({ mode }) => Promise.resolve(wholeCopy('store', 's3://bucket', mode)),
  surveyNodeCopy: ({ checkpointId, mode }) =>
    Promise.resolve(wholeCopy('node', `/var/lib/kybernate/checkpoints/checkpoint-${checkpointId}`, mode)),
  prefetchPacks: () => Promise.resolve({ bytes: 1000, presentBytes: 200, from: { store: 800 }, seconds: 0.5 }),
  repairStored: () =>
    Promise.resolve({ markedPacks: [], restoredPacks: [], rewrittenIndexes: [], newChunks: 1, sentBytes: 100 }),
  repairNodeCopy: () => Promise.resolve({ localPath: '/var/lib/kybernate/checkpoints/x', fetchedBytes: 1000 }),
  verifyRemote: () => Promise.resolve({ files: 4, bytes: 1000 }),
  resolveLocal: () =>
    Promise.resolve({
      found: {
        from: 'local',
        totalBytes: 1000,
        sourceContainer: { namespace: 'default', id: 'redis' },
        sourceNode: 'node-a',
        createdAt: '2026-03-01T00:00:00.000Z',
      },
    }),
  findCheckpoint: () =>
    Promise.resolve({
      found: {
        from: 'store',
        totalBytes: 1000,
        sourceContainer: { namespace: 'default', id: 'redis' },
        sourceNode: 'node-a',
        createdAt: '2026-03-01T00:00:00.000Z',
      },
    }),
  fetchImage: ({ from }) =>
    Promise.resolve({
      localPath: '/var/lib/kybernate/checkpoints/x',
      fetchedBytes: from === 'store' ? 1000 : 0,
      from,
    }),
  planRestore: () => Promise.resolve({ warnings: [] }),
  createContainer: () => Promise.resolve(),
  createCold: () => Promise.resolve(),
  olderLocal: () => Promise.resolve({ checkpoints: [] }),
  olderStored: () => Promise.resolve({ checkpoints: [] }),
  startRestored: () => Promise.resolve({ initHostPid: 77, restoreMs: 100, how: 'restored' }),
  inspectRestore: ({ node }) =>
    Promise.resolve({
      node,
      outcome: { how: 'restored', restoreFrom: 'ck-1', at: '2026-03-01T00:00:00.000Z' },
    }),
  importArchive: ({ archive, checkpointId }) =>
    Promise.resolve({
      checkpointId: checkpointId ?? 'app-12345678',
      localPath: `/var/lib/kybernate/checkpoints/checkpoint-${checkpointId ?? 'app-12345678'}`,
      totalBytes: 1000,
      created: true,
      pod: { namespace: 'ml', name: archive.includes('web') ? 'web-0' : 'llm', container: 'app' },
      warnings: [],
    }),
  listCopies: ({ node }) => Promise.resolve({ node, copies: [], more: 0, damaged: [] }),
  preflightRestore: ({ container }) => Promise.resolve({ container, findings: [], checkMs: 3 }),
  preflightCheckpoint: ({ container }) =>
    Promise.resolve({
      container: { namespace: 'default', id: container.id ?? 'pod-c' },
      findings: [],
      checkMs: 3,
    }),
  removeRestored: () => Promise.resolve(),
  releaseRestoreLease: () => Promise.resolve(),
  planProcessRestore: () => Promise.resolve({ warnings: [] }),
  restoreProcess: () =>
    Promise.resolve({
      checkpointId: 'ck-1',
      pid: 77,
      startTime: 1000,
      processes: 1,
      restoreMs: 100,
      warnings: [],
    }),
  removeRestoredProcess: () => Promise.resolve(),
};
