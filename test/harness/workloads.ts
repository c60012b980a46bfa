import { fileURLToPath } from 'node:url';

/** Flags of `ctr run` that show test/workloads as /w, read-only. */
export function workload(): string[] {
  const source = fileURLToPath(new URL('../workloads', import.meta.url));
  return ['--mount', `type=bind,src=${source},dst=/w,options=rbind:ro`];
}
