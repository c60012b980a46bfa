/* Where the output of a restored container goes, in the words of containerd's shim. */
import type { RestoreRecord } from './restore-operation.ts';

export interface TaskStdio {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

/**
 * Nothing is read; output is dropped or appended to a file. A terminal needs a reader for the life of the container, or
 * its programs would block once it is full: the shim starts one by `binary:` and waits until that closes fd 5; the
 * output comes on fd 3. Source: containerd, core/runtime/v2/logging and cmd/containerd-shim-runc-v2/process/io.go.
 */
export function taskStdio({ stdio, terminal }: Pick<RestoreRecord, 'stdio' | 'terminal'>): TaskStdio {
  const file = stdio.kind === 'log' ? stdio.path : undefined;
  if (terminal) {
    const script = `exec 5>&-; exec cat <&3 >>${shellQuoted(file ?? '/dev/null')}`;
    return { stdin: '', stdout: `binary:///bin/sh?-c=${encodeURIComponent(script)}`, stderr: '', terminal };
  }
  const out = file === undefined ? '' : `file://${encodeURI(file)}`;
  return { stdin: '', stdout: out, stderr: out, terminal };
}

function shellQuoted(path: string): string {
  return `'${path.replaceAll("'", String.raw`'\''`)}'`;
}
