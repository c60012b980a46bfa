/*
 * BPF programs of a cgroup, given to another one. In version 2 they are what allows a group its devices: a process in a
 * group without them may open every device of the machine that it has, or can make, a node of.
 * Sources: bpf(2); include/uapi/linux/bpf.h (union bpf_attr, enum bpf_attach_type).
 */
import { closeSync, constants, openSync } from 'node:fs';
import koffi from 'koffi';
import { BPF, CGROUP_ATTACH_TYPES, SYS_BPF } from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

/** The kernel takes no more on one group (BPF_CGROUP_MAX_PROGS). */
const MAX_PROGRAMS = 64;

/**
 * Attaches to one group what is attached to another one itself; what is inherited needs no copy.
 * @param from directory of a cgroup v2
 * @param to directory of one that has no program of its own yet
 * @throws Internal a program could not be attached; those before it are
 */
export function copyPrograms(from: string, to: string): void {
  const [source, target] = [openDirectory(from), openDirectory(to)];
  try {
    for (const attachType of CGROUP_ATTACH_TYPES) {
      programsOf(source, attachType).forEach((id) => attach(id, target, attachType));
    }
  } finally {
    closeSync(source);
    closeSync(target);
  }
}

function openDirectory(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
}

/** Ids, in the order in which they run. */
function programsOf(cgroup: number, attachType: number): readonly number[] {
  const ids = koffi.alloc('uint32_t', MAX_PROGRAMS);
  try {
    // target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
    const query = new DataView(new ArrayBuffer(40));
    query.setUint32(0, cgroup, true);
    query.setUint32(4, attachType, true);
    query.setBigUint64(16, koffi.address(ids), true);
    query.setUint32(24, MAX_PROGRAMS, true);
    if (bpf(BPF.progQuery, query) < 0) {
      // A kernel that knows no such programs, or was built without any: there are none.
      if (['EINVAL', 'ENOSYS'].includes(lastErrno())) {
        return [];
      }
      throw libcError('bpf(BPF_PROG_QUERY)');
    }
    return koffi.decode(ids, 'uint32_t', query.getUint32(24, true)) as number[];
  } finally {
    koffi.free(ids);
  }
}

function attach(id: number, cgroup: number, attachType: number): void {
  const program = bpf(BPF.progGetFdById, words(id, 0, 0));
  if (program < 0) {
    throw libcError('bpf(BPF_PROG_GET_FD_BY_ID)');
  }
  try {
    if (bpf(BPF.progAttach, words(cgroup, program, attachType, BPF.allowMulti)) < 0) {
      throw libcError('bpf(BPF_PROG_ATTACH)');
    }
  } finally {
    closeSync(program);
  }
}

function words(...values: readonly number[]): DataView {
  const view = new DataView(new ArrayBuffer(values.length * 4));
  values.forEach((value, at) => view.setUint32(at * 4, value, true));
  return view;
}

function bpf(command: number, attributes: DataView): number {
  const bytes = new Uint8Array(attributes.buffer);
  return libc().syscallOn(SYS_BPF, command, bytes);
}
