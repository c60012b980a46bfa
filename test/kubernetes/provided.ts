/* What the set-up of the project hands to its files. */
import { inject } from 'vitest';

import type { ClusterPaths } from './cluster-config.ts';
import { type Cluster, openCluster } from './cluster.ts';

export interface ClusterFacts {
  readonly paths: ClusterPaths;
  readonly token: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    cluster: ClusterFacts;
  }
}

/** The cluster of this run. */
export function theCluster(): Cluster {
  const { paths, token } = inject('cluster');
  return openCluster(paths, token);
}
