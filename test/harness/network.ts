/* A network namespace of its own for a test's containers, which the host reaches. */
import { runExeca } from '../../native/run/run-execa.ts';

/** Adds a network namespace with loopback up, joined to the host by a veth pair; returns its path and addresses. */
export async function makeNetworkNamespace(
  name: string,
  subnet: number,
): Promise<{ path: string; address: string; remove(): Promise<void> }> {
  const ip = async (...args: string[]): Promise<void> => {
    const result = await runExeca('ip', args);
    if (result.exitCode !== 0) {
      throw new Error(`ip ${args.join(' ')}: ${result.stderr}`);
    }
  };
  const address = `10.231.${subnet}.2`;
  await ip('netns', 'add', name);
  await ip('link', 'add', `${name}-h`, 'type', 'veth', 'peer', 'name', `${name}-c`, 'netns', name);
  await ip('addr', 'add', `10.231.${subnet}.1/24`, 'dev', `${name}-h`);
  await ip('link', 'set', `${name}-h`, 'up');
  await ip('-n', name, 'link', 'set', 'lo', 'up');
  await ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', `${name}-c`);
  await ip('-n', name, 'link', 'set', `${name}-c`, 'up');
  return {
    path: `/run/netns/${name}`,
    address,
    remove: async () => {
      await ip('netns', 'del', name).catch(() => undefined);
      await ip('link', 'del', `${name}-h`).catch(() => undefined);
    },
  };
}
