/* What the global set-ups hand to tests: `inject('temporal')` and so on. Plain data, it crosses process borders. */
import type { S3Server } from '../../cli/dev/s3.ts';
import type { TemporalServer } from '../../cli/dev/temporal.ts';

export interface ProvidedContainerd {
  readonly address: string;
  readonly dir: string;
  /** PATH with ctr, runc, criu, the stock shim and the Kybernate shim */
  readonly path: string;
  /** every test image is imported here; containers of other namespaces need `importImages` first */
  readonly namespace: string;
  /** KYBERNATE_RUN_DIR of its shims: node workers of the tests use the same */
  readonly runDir: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    /** in projects temporal and system */
    temporal: TemporalServer;
    /** in project system only, as are the following */
    containerd: ProvidedContainerd;
    s3: S3Server;
    programs: { readonly runc: string; readonly criu: string; readonly ctr: string };
  }
}
