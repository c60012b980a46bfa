/* The contract of the entity workflow `containerLock`, id `lock:<node>/<namespace>/<container>`. */

export interface LockRequest {
  /** workflow that asks; it is told by the signal `lockGranted` */
  readonly holder: { readonly workflowId: string; readonly runId: string };
  /** `checkpoint`, `restore`, ...: shown to those who wait */
  readonly operation: string;
  /** newest token that the node has seen: a new lock starts above it */
  readonly minToken: number;
}

export interface LockGrant {
  readonly lockId: string;
  readonly token: number;
}

export interface LockRelease {
  readonly runId: string;
  readonly token: number;
}

export interface LockState {
  readonly holder?: LockRequest['holder'] & {
    readonly operation: string;
    readonly token: number;
    readonly since: string;
  };
  readonly waiting: ReadonlyArray<LockRequest>;
  readonly lastToken: number;
}
