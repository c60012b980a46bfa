/* What engine functions need, over the real programs and the containerd of the run. */

import type { Op } from '../../core/op.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { fromLane } from './provided.ts';

export function testDeps(containerd: Containerd): NodeDeps {
  const provided = fromLane('containerd');
  const { runc, criu } = fromLane('programs');
  return {
    containerd,
    run: runExeca,
    gpu: () => ({ reason: 'no GPU in this test' }),
    settings: {
      node: 'test-node',
      stateDir: provided.dir,
      runDir: provided.runDir,
      containerdAddress: provided.address,
      runcPath: runc,
      criuPath: criu,
      programPath: provided.path,
      cudaLibrary: 'libcuda.so.1',
      nvmlLibrary: 'libnvidia-ml.so.1',
      runnerCommand: [],
      restoreRoots: [],
      restoreFromEnvironment: false,
      restoreRuntime: 'io.containerd.runc.kybernate.v1',
    },
  };
}

export function testOp(signal: AbortSignal = new AbortController().signal): Op {
  const silent = (): void => undefined;
  return { signal, progress: silent, log: { debug: silent, info: silent, warn: silent, error: silent } };
}
