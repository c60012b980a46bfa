/*
 * Docker may have a containerd of its own beside the node's. Containers are told apart by their namespace, which stands
 * first in every call, so that nothing above has to know on which socket one lives.
 */
import { DOCKER_NAMESPACE } from '../../core/ids.ts';
import { connectContainerd } from './client.ts';
import type { Containerd } from './containerd.ts';

export interface ContainerdAddresses {
  readonly containerdAddress: string;
  /** of the containerd with Docker's containers; absent: the node's own has them */
  readonly dockerContainerdAddress?: string;
}

/** As `connectContainerd`; nothing is sent before the first call. */
export function connectContainerds({ containerdAddress, dockerContainerdAddress }: ContainerdAddresses): Containerd {
  const own = connectContainerd(containerdAddress);
  return dockerContainerdAddress === undefined || dockerContainerdAddress === containerdAddress
    ? own
    : byNamespace(own, connectContainerd(dockerContainerdAddress));
}

type Method = (...args: readonly unknown[]) => unknown;

export function byNamespace(own: Containerd, ofDocker: Containerd): Containerd {
  return new Proxy(own, {
    get(_target, name): Method {
      return (...args) => {
        if (name === 'close') {
          own.close();
          return ofDocker.close();
        }
        const side = args[0] === DOCKER_NAMESPACE ? ofDocker : own;
        return (Reflect.get(side, name) as Method)(...args);
      };
    },
  });
}
