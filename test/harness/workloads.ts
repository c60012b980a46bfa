import { fileURLToPath } from 'node:url';

/** Flags of `ctr run` that show test/workloads as /w, read-only. */
export function workload(): string[] {
  const source = fileURLToPath(new URL('../workloads', import.meta.url));
  return ['--mount', `type=bind,src=${source},dst=/w,options=rbind:ro`];
}

/** Holds so many MiB that do not shrink, and tells in /tmp/state.json. Its checksum is of its start: nobody asks for another. */
export function memoryCommand(mib: number, zeroMib = 64): string[] {
  return ['/usr/bin/python3', '/w/memory.py', String(mib), String(zeroMib), '1000000'];
}
