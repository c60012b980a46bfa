import { expect, it } from 'vitest';
import type { Containerd } from './containerd.ts';
import { byNamespace } from './by-namespace.ts';

it("calls for Docker's namespace go to Docker's containerd, all others to the node's, and both are closed", async () => {
  const said: string[] = [];
  const one = (name: string): Containerd =>
    ({
      version: () => Promise.resolve(name),
      deleteContainer: (namespace: string, id: string) => Promise.resolve(void said.push(`${name} ${namespace} ${id}`)),
      close: () => void said.push(`${name} closed`),
    }) as unknown as Containerd;
  const both = byNamespace(one('own'), one('docker'));

  await both.deleteContainer('moby', 'a');
  await both.deleteContainer('k8s.io', 'b');
  both.close();

  expect(await both.version()).toBe('own');
  expect(said).toEqual(['docker moby a', 'own k8s.io b', 'own closed', 'docker closed']);
});
