/* Can the container's OCI runtime checkpoint at all? crun has it only where it was built with CRIU; Debian's was not. */
import { decodeRuncOptions } from '../native/containerd/runc-options.ts';
import type { Run } from '../native/run/run.ts';
import type { ContainerFacts } from './container-facts.ts';

const ASK_MS = 5000;

/** Asks the runtime only where runc does not know the container, or the shim will call it. */
export async function runtimeRefusals(
  run: Run,
  { record, runcRoot, bundle }: Pick<ContainerFacts, 'record' | 'runcRoot' | 'bundle'>,
  engine: 'runc' | 'containerd',
): Promise<string[]> {
  if (engine === 'runc' && bundle !== undefined) {
    return [];
  }
  const binary = decodeRuncOptions(record.runtime.options)?.binaryName ?? '';
  if (binary !== '') {
    const asked = await run(binary, ['checkpoint', '--help'], { timeoutMs: ASK_MS });
    if (asked.exitCode !== 0) {
      const said = (asked.startError ?? `${asked.stderr}${asked.stdout}`).trim().split('\n').at(0) ?? '';
      return [`its OCI runtime ${binary} has no checkpoint (${said}): run the container by runc`];
    }
  }
  return engine === 'runc'
    ? [
        `runc does not know the container below ${runcRoot} (runtime ${record.runtime.name}): ` +
          'use engine "containerd", or a runc runtime',
      ]
    : [];
}
