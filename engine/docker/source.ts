/* A container of the node's Docker daemon as a source: which one it is, and how Docker had made it. */
import { KybernateError } from '../../core/errors.ts';
import { DOCKER_NAMESPACE } from '../../core/ids.ts';
import type { Docker, DockerContainer } from '../../native/docker/docker.ts';
import type { ContainerId, DockerFacts } from '../container-facts.ts';
import type { NodeDeps } from '../node-deps.ts';

/** @throws Incompatible this node worker knows no Docker daemon */
export function requireDocker({ docker, settings }: NodeDeps): Docker {
  if (docker === undefined) {
    throw new KybernateError('Incompatible', `the worker of ${settings.node} was started without Docker`);
  }
  return docker;
}

/**
 * @param name name or id in Docker
 * @throws ContainerNotFound, ContainerNotRunning, RuntimeUnavailable no daemon answers, Incompatible
 */
export async function resolveDocker(deps: NodeDeps, name: string): Promise<ContainerId> {
  const { settings, containerd } = deps;
  const docker = requireDocker(deps);
  const found = await docker.container(name);
  if (found === undefined) {
    throw new KybernateError('ContainerNotFound', `the Docker daemon of ${settings.node} has no container ${name}`);
  }
  if (!found.State.Running || found.State.Restarting) {
    throw new KybernateError(
      'ContainerNotRunning',
      `container ${name} of Docker on ${settings.node} does not run: it is ${found.State.Status}`,
    );
  }
  if (await isRemapped(docker, found)) {
    throw new KybernateError(
      'Incompatible',
      `Docker on ${settings.node} maps the users of ${name} (userns-remap), which is not supported: run it with ` +
        '`--userns=host`, or the daemon without `userns-remap`; the container was not touched',
    );
  }
  const ref = { namespace: DOCKER_NAMESPACE, id: found.Id };
  if ((await containerd.getContainer(ref.namespace, ref.id)) === undefined) {
    const address = settings.dockerContainerdAddress ?? settings.containerdAddress;
    throw new KybernateError(
      'Incompatible',
      `Docker runs ${name}, but the containerd at ${address} does not know it: set KYBERNATE_DOCKER_CONTAINERD to the ` +
        "socket of Docker's containerd (/run/docker/containerd/containerd.sock, where the daemon starts its own)",
      { details: { ...ref, address } },
    );
  }
  return ref;
}

async function isRemapped(docker: Docker, { HostConfig }: DockerContainer): Promise<boolean> {
  const { SecurityOptions } = await docker.info();
  return hasUserns(SecurityOptions) && HostConfig.UsernsMode !== 'host';
}

export function hasUserns(options: readonly string[] | null | undefined): boolean {
  return (options ?? []).some((option) => /^name=userns(?:,|$)/.test(option));
}

/** @throws ContainerNotFound it is gone meanwhile */
export async function dockerFacts(docker: Docker, id: string): Promise<DockerFacts> {
  const [found, { ServerVersion: version }] = await Promise.all([docker.container(id), docker.info()]);
  if (found === undefined) {
    throw new KybernateError('ContainerNotFound', `Docker has no container ${id} any more`);
  }
  return {
    name: found.Name.replace(/^\//, ''),
    image: { ref: found.Config.Image, id: found.Image },
    config: { ...found.Config },
    hostConfig: { ...found.HostConfig },
    networks: Object.fromEntries(
      Object.entries(found.NetworkSettings.Networks).map(([name, endpoint]) => [name, { ...endpoint }]),
    ),
    mounts: found.Mounts.map(({ Type, Name, Source, Destination, RW }) => ({
      type: Type,
      ...(Name === undefined || Name === '' ? {} : { name: Name }),
      source: Source,
      destination: Destination,
      writable: RW !== false,
    })),
    version,
  };
}

/** Why Docker would undo what the checkpoint wants. @param after what is to become of the source */
export function dockerRefusals({ name, hostConfig }: DockerFacts, after: 'resume' | 'hold' | 'stop'): string[] {
  if (after !== 'stop') {
    return [];
  }
  const { RestartPolicy, AutoRemove } = hostConfig as DockerContainer['HostConfig'];
  const policy = RestartPolicy?.Name ?? '';
  return [
    ...(policy === '' || policy === 'no'
      ? []
      : [
          `Docker would start it again when it is stopped (restart policy ${policy}): \`docker update --restart=no ${name}\` first`,
        ]),
    ...(AutoRemove === true
      ? [
          'Docker would remove it and its anonymous volumes when it is stopped (--rm): checkpoint it with `after: resume`, or make it without --rm',
        ]
      : []),
  ];
}
