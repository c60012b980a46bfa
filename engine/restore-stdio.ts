/* Where the output of a restored container goes, in the words of containerd's shim. */
import type { RestoreRecord } from './restore-operation.ts';

export interface TaskStdio {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

const NULL = '/dev/null';

/**
 * Nothing is read; output is dropped or appended to a file. Never no stream at all: the shim would hand the host's
 * /dev/null to what was a pipe, which the next checkpoint cannot find in the container's mounts. A terminal needs a reader for the life of the container, or
 * its programs would block once it is full: the shim starts one by `binary:` and waits until that closes fd 5; the
 * output comes on fd 3. Source: containerd, core/runtime/v2/logging and cmd/containerd-shim-runc-v2/process/io.go.
 */
export function taskStdio({ stdio, terminal }: Pick<RestoreRecord, 'stdio' | 'terminal'>): TaskStdio {
  const file = stdio.kind === 'log' && stdio.path !== undefined ? stdio.path : NULL;
  if (terminal) {
    const script = `exec 5>&-; exec cat <&3 >>${shellQuoted(file)}`;
    return { stdin: '', stdout: `binary:///bin/sh?-c=${encodeURIComponent(script)}`, stderr: '', terminal };
  }
  const out = `file://${encodeURI(file)}`;
  return { stdin: NULL, stdout: out, stderr: out, terminal };
}

function shellQuoted(path: string): string {
  return `'${path.replaceAll("'", String.raw`'\''`)}'`;
}
