import type { Containerd } from '../native/containerd/containerd.ts';
import type { Run } from '../native/run/run.ts';

export interface RootfsCapture {
  /** of the archive */
  readonly bytes: number;
  readonly deletedFiles: number;
  readonly method: 'overlay' | 'diff-service' | 'none';
  readonly warnings: readonly string[];
}

export interface RootfsDeps {
  readonly run: Run;
  /** only snapshotters without an upper directory connect */
  readonly containerd: () => Containerd;
}
