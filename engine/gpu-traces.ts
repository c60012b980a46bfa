/*
 * Does a process look as if it used a GPU? Read from /proc alone, so that it can be asked of a frozen process, and by the
 * runtime wrapper, which knows no driver. Whether it really holds CUDA state only the driver can tell.
 */
import { freezerCgroup, cgroupPids } from '../native/proc/cgroup.ts';
import { openFds } from '../native/proc/fds.ts';
import { readMaps } from '../native/proc/maps.ts';

/** The driver's device nodes, and its library: a process whose state is saved has neither descriptors nor mappings of nodes. */
const TRACE = /^\/dev\/nvidia|\/libcuda\.so/;

/** @returns the host pids among them that have the driver's devices open or its library loaded */
export function withGpuTraces(hostPids: readonly number[]): readonly number[] {
  return hostPids.filter(
    (pid) =>
      openFds(pid).some((open) => TRACE.test(open.target)) || readMaps(pid).some((mapping) => TRACE.test(mapping.path)),
  );
}

/** Every process in the cgroup of a container, by its first process; empty when that is gone. */
export function containerPids(initHostPid: number): readonly number[] {
  const cgroup = freezerCgroup(initHostPid);
  return cgroup === undefined ? [] : cgroupPids(cgroup.path);
}
