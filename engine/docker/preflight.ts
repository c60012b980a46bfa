/*
 * May the Docker daemon of this node make the container of this checkpoint? Everything that can be asked before anything is
 * made. The specification of the new container is Docker's to write: the wrapper compares it with the images.
 */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { namespaceKind, type OciSpec } from '../../core/oci/spec.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import type { Docker, DockerContainer, DockerHostConfig, DockerInfo } from '../../native/docker/docker.ts';
import type { Endpoint } from '../../native/proc/sockets.ts';
import type { DockerFacts } from '../container-facts.ts';
import { networkFindings, type NetworkHere } from '../preflight/resources.ts';
import { DOCKER_RUNTIME } from './create-body.ts';
import { hasUserns } from './source.ts';

/** Where the restored processes are to live. */
export type DockerTarget =
  /** the source itself, which is stopped; `upperDir` is its own layer */
  | { readonly kind: 'same'; readonly id: string; readonly upperDir: string }
  /** `image` means the source's image in this daemon */
  | { readonly kind: 'new'; readonly image: string };

export interface DockerSurvey {
  readonly findings: readonly Finding[];
  /** absent with errors about it */
  readonly target?: DockerTarget;
}

export interface DockerPlace {
  /** asked for */
  readonly name: string;
  readonly operationId: string;
  readonly tcp: 'keep' | 'close';
  readonly host: Omit<NetworkHere, 'name'>;
  /** is there something at this path of the node? */
  readonly exists: (path: string) => boolean;
  /** the operation that restores into this layer */
  readonly holderOf: (upperDir: string) => string | undefined;
}

/** @throws RuntimeUnavailable no daemon answers */
export async function surveyDocker(
  docker: Docker,
  metadata: Metadata,
  spec: OciSpec,
  place: DockerPlace,
): Promise<DockerSurvey> {
  const facts = metadata.container.docker;
  if (facts === undefined) {
    const message = 'it is not of a container of Docker: restore it without --docker';
    return { findings: [problem('docker', message)] };
  }
  const info = await docker.info();
  const { target, findings } = await chooseTarget(docker, metadata, facts, place);
  const all = [
    ...daemonFindings(info),
    ...findings,
    ...(await resourceFindings(docker, facts, place)),
    ...portFindings(facts, metadata, spec, place),
  ];
  return { findings: all, ...(target === undefined ? {} : { target }) };
}

function daemonFindings({ Runtimes, SecurityOptions }: DockerInfo): Finding[] {
  return [
    ...(Runtimes[DOCKER_RUNTIME] === undefined
      ? [
          problem('docker', `Docker has no runtime ${DOCKER_RUNTIME}`, {
            here: Object.keys(Runtimes).join(', '),
            remedy: 'register it in /etc/docker/daemon.json and reload the daemon: docs/docker.md',
          }),
        ]
      : []),
    ...(hasUserns(SecurityOptions)
      ? [problem('docker', 'Docker maps users (userns-remap), which is not supported')]
      : []),
  ];
}

async function chooseTarget(
  docker: Docker,
  { container }: Metadata,
  facts: DockerFacts,
  { name, operationId, holderOf }: DockerPlace,
): Promise<DockerSurvey> {
  const there = await docker.container(name);
  if (there !== undefined && there.Id === container.id) {
    return sameContainer(there, { name, operationId, holderOf });
  }
  if (there !== undefined && there.Config.Labels?.['kybernate.io/operation'] !== operationId) {
    const remedy = 'remove or rename it, or choose another name with --name';
    return {
      findings: [problem('name', `Docker has another container ${name} (${there.Id.slice(0, 12)})`, { remedy })],
    };
  }
  const { ref, id } = facts.image;
  const named = await docker.image(ref);
  if (named === id) {
    return { target: { kind: 'new', image: ref }, findings: [] };
  }
  if ((await docker.image(id)) === undefined) {
    const message = `Docker has not the image ${ref} of the checkpoint; bring ${id} here first`;
    return { findings: [problem('image', message, { recorded: id, ...(named === undefined ? {} : { here: named }) })] };
  }
  const other =
    named === undefined ? [] : [caution('image', `${ref} is another image here`, { recorded: id, here: named })];
  return { target: { kind: 'new', image: id }, findings: other };
}

/** @returns undefined where the files of the container lie elsewhere */
export function upperDirOf(container: DockerContainer | undefined): string | undefined {
  const { Name, Data } = container?.GraphDriver ?? {};
  return Name === 'overlay2' ? Data?.['UpperDir'] : undefined;
}

function sameContainer(
  there: DockerContainer,
  { name, operationId, holderOf }: Pick<DockerPlace, 'name' | 'operationId' | 'holderOf'>,
): DockerSurvey {
  const { State, HostConfig, GraphDriver } = there;
  const remedy = 'choose another name with --name';
  if (State.Running || State.Restarting) {
    const message = `container ${name} of Docker, the source, is ${State.Status}`;
    return { findings: [problem('docker', message, { remedy: `stop it first, or ${remedy}` })] };
  }
  if (HostConfig.Runtime !== DOCKER_RUNTIME) {
    const message =
      `container ${name} was made with the runtime ${HostConfig.Runtime ?? '?'}, which only starts afresh; Docker cannot ` +
      'change that';
    return { findings: [problem('docker', message, { remedy })] };
  }
  const upperDir = upperDirOf(there);
  if (upperDir === undefined) {
    const message = `the files of container ${name} lie in ${GraphDriver.Name}, where they cannot be set back`;
    return { findings: [problem('docker', message, { remedy })] };
  }
  const holder = holderOf(upperDir);
  if (holder !== undefined && holder !== operationId) {
    const message = `restore ${holder} of container ${name} was interrupted, and its files of before are not back yet`;
    return { findings: [problem('docker', message, { remedy: `wait for its undo, or ${remedy}` })] };
  }
  return { target: { kind: 'same', id: there.Id, upperDir }, findings: [] };
}

async function resourceFindings(docker: Docker, facts: DockerFacts, { exists }: DockerPlace): Promise<Finding[]> {
  const findings: Finding[] = [];
  const { NetworkMode = 'default', VolumesFrom } = facts.hostConfig as DockerHostConfig;
  for (const { type, name, source, destination } of facts.mounts) {
    if (type === 'volume' && name !== undefined && !(await docker.hasVolume(name))) {
      const remedy = 'bring the volume with its content to this daemon';
      findings.push(problem('mounts', `mount ${destination}: Docker has no volume ${name}`, { remedy }));
    } else if (type === 'bind' && !exists(source)) {
      findings.push(problem('mounts', `mount ${destination}: ${source} does not exist on this node`));
    }
  }
  for (const network of Object.keys(facts.networks)) {
    if (!(await docker.hasNetwork(network))) {
      findings.push(problem('docker', `Docker has no network ${network}`, { remedy: 'docker network create' }));
    }
  }
  const others = [
    ...(NetworkMode.startsWith('container:') ? [NetworkMode.slice('container:'.length)] : []),
    ...(VolumesFrom ?? []).map((from) => from.replace(/:r[ow]$/, '')),
  ];
  for (const other of others) {
    const there = await docker.container(other);
    if (there === undefined) {
      findings.push(problem('docker', `it needs container ${other}, which Docker does not have`));
    }
  }
  return findings;
}

/** Ports that Docker is to publish, and those of a container that shares the host's network. */
function portFindings(facts: DockerFacts, { capture }: Metadata, spec: OciSpec, { tcp, host }: DockerPlace): Finding[] {
  const { PortBindings } = facts.hostConfig as DockerHostConfig;
  const published = Object.values(PortBindings ?? {})
    .flatMap((bindings) => bindings ?? [])
    .flatMap(({ HostIp, HostPort }): Endpoint[] =>
      HostPort === undefined || HostPort === '' || HostPort === '0'
        ? []
        : [{ address: HostIp === undefined || HostIp === '' ? '0.0.0.0' : HostIp, port: Number(HostPort) }],
    );
  const name = "the host's network";
  const wanted = { listening: published, tcp: 'close' as const };
  return [
    ...networkFindings({ ...capture, ...wanted }, 'close', { name, ...host }),
    ...(namespaceKind(spec, 'network') === 'host' ? networkFindings(capture, tcp, { name, ...host }) : []),
    ...(tcp === 'keep' && (capture.connectedAddresses ?? []).length > 0 && namespaceKind(spec, 'network') === 'own'
      ? [caution('addresses', 'its connections come back only if Docker gives it the same address again')]
      : []),
  ];
}
