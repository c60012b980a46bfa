/* The call by which the runtime wrapper hands a `runc checkpoint` to the agent: POST /v1/checkpoint-container. */
import * as z from 'zod';
import { absolutePath, runtimeContainer } from './common.ts';

export const checkpointContainerRequest = z.strictObject({
  container: runtimeContainer,
  /** runc's `--root` */
  runcRoot: absolutePath,
  /** where CRIU's images are to lie; made when absent */
  imagePath: absolutePath,
  /** where dump.log and CRIU's statistics are to lie */
  workPath: absolutePath,
  /** false: the container ends when its images are complete */
  leaveRunning: z.boolean(),
  /** `keep` captures the state of established connections; of a dump with `close` a restore finds them closed */
  tcp: z.enum(['keep', 'close']),
});
/** As the agent reads it. */
export type CheckpointContainerRequest = z.output<typeof checkpointContainerRequest>;
/** As the wrapper writes it. */
export type CheckpointContainerCall = z.input<typeof checkpointContainerRequest>;

export type CheckpointContainerResponse =
  /** the container uses no GPU, nothing was touched: the real runc does it */
  | { readonly handled: false }
  | {
      readonly handled: true;
      readonly source: 'running' | 'paused' | 'stopped';
      readonly gpuProcesses: number;
      readonly vramBytes: number;
      readonly freezeMs: number;
      readonly imageBytes: number;
      readonly warnings: readonly string[];
    };
