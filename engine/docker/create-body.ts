/*
 * What Docker is told to make the container of a restore: as its source was made, with our runtime. Pure.
 * Source: Docker, Engine API, ContainerCreate.
 */
import { LABELS } from '../../core/oci/annotations.ts';
import type { DockerContainer, DockerEndpoint, DockerHostConfig } from '../../native/docker/docker.ts';
import type { DockerFacts } from '../container-facts.ts';

/** Name under which the runtime is registered in daemon.json. */
export const DOCKER_RUNTIME = 'kybernate';
/** Networks that Docker makes by itself: a container is in none of them beside another. */
const BUILT_IN: ReadonlySet<string> = new Set(['bridge', 'default', 'host', 'none', 'nat']);

export interface CreateBody {
  readonly body: object;
  /** networks beside the first, which a container joins after it was made */
  readonly connect: ReadonlyArray<{ readonly network: string; readonly endpoint: object }>;
}

export interface CreateWish {
  readonly operationId: string;
  readonly checkpointId: string;
  /** id of the source */
  readonly sourceId: string;
  /** reference or id that means the image of the source in this daemon */
  readonly image: string;
}

export function createBody(facts: DockerFacts, wish: CreateWish): CreateBody {
  const config = facts.config as DockerContainer['Config'];
  const hostConfig = facts.hostConfig as DockerHostConfig & Readonly<Record<string, unknown>>;
  const mode = hostConfig.NetworkMode ?? 'default';
  const all = Object.entries(facts.networks).map(
    ([network, endpoint]) => [network, endpointOf(endpoint, network, wish.sourceId)] as const,
  );
  const [first, ...others] = [...all].sort(([a], [b]) => Number(b === mode) - Number(a === mode));
  const joins = first === undefined || mode.startsWith('container:') || BUILT_IN.has(first[0]) ? undefined : first;
  return {
    body: {
      ...config,
      // Docker names a container after its id where nobody did.
      Hostname: wish.sourceId.startsWith(config.Hostname ?? '') ? '' : config.Hostname,
      Image: wish.image,
      Labels: {
        ...config.Labels,
        [LABELS.operation]: wish.operationId,
        [LABELS.restoredFrom]: wish.checkpointId,
      },
      HostConfig: {
        ...hostConfig,
        Runtime: DOCKER_RUNTIME,
        ContainerIDFile: '',
        Binds: [...(hostConfig.Binds ?? []), ...anonymousVolumes(facts, hostConfig)],
      },
      ...(joins === undefined ? {} : { NetworkingConfig: { EndpointsConfig: { [joins[0]]: joins[1] } } }),
    },
    connect: others.map(([network, endpoint]) => ({ network, endpoint })),
  };
}

/** Addresses that somebody chose stay; those that Docker chose, and names after the source's id, do not. */
function endpointOf(endpoint: DockerEndpoint, network: string, sourceId: string): object {
  if (BUILT_IN.has(network)) {
    return {};
  }
  const { IPAMConfig, Links, Aliases } = endpoint;
  const aliases = (Aliases ?? []).filter((alias) => !sourceId.startsWith(alias));
  return {
    ...(IPAMConfig === null || IPAMConfig === undefined ? {} : { IPAMConfig }),
    ...(Links === null || Links === undefined ? {} : { Links }),
    ...(aliases.length === 0 ? {} : { Aliases: aliases }),
  };
}

/** Nothing in the configuration names them, and a new one would be empty. */
function anonymousVolumes({ mounts }: DockerFacts, hostConfig: DockerHostConfig): string[] {
  const named = JSON.stringify([hostConfig.Binds ?? [], (hostConfig as { Mounts?: unknown }).Mounts ?? []]);
  return mounts.flatMap(({ type, name, destination, writable }) =>
    type !== 'volume' || name === undefined || named.includes(name)
      ? []
      : [`${name}:${destination}${writable ? '' : ':ro'}`],
  );
}
