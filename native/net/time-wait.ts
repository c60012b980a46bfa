/*
 * Connections that have ended and keep their port for a minute (TIME_WAIT). A listener whose socket lacks SO_REUSEADDR
 * cannot take its port back meanwhile, hence no restore can make it: bind fails although nobody listens.
 */
import type { Run } from '../run/run.ts';

const TIMEOUT_MS = 10_000;
/** Terms of one filter of `ss`. */
const PORTS_PER_CALL = 100;

/**
 * Ends those of these local ports in the network namespace, by `ss --kill` of iproute2. Live sockets stay. Where the
 * kernel cannot (CONFIG_INET_DIAG_DESTROY) or `ss` is missing, nothing happens: they end by themselves.
 */
export async function endTimeWait(run: Run, namespacePath: string, ports: readonly number[]): Promise<void> {
  for (let start = 0; start < ports.length; start += PORTS_PER_CALL) {
    const filter = ports.slice(start, start + PORTS_PER_CALL).flatMap((port) => ['or', 'sport', '=', `:${port}`]);
    const args = ['--kill', '--tcp', '--numeric', '--no-header', 'state', 'time-wait', ...filter.slice(1)];
    await run('nsenter', [`--net=${namespacePath}`, '--', 'ss', ...args], {
      timeoutMs: TIMEOUT_MS,
      maxOutputBytes: 1024 * 1024,
    });
  }
}
