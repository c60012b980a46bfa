/*
 * What Kybernate asks of a Docker daemon, as one interface, so that the engine can be tested with a literal object.
 * Implemented over the Engine API by client.ts. Field names are Docker's own, as they travel.
 */

export interface DockerInfo {
  readonly ServerVersion: string;
  readonly DockerRootDir: string;
  /** storage driver, `overlay2` */
  readonly Driver: string;
  /** name to what it runs */
  readonly Runtimes: Readonly<Record<string, { readonly path?: string; readonly runtimeType?: string }>>;
  readonly DefaultRuntime: string;
  /** for example `name=userns` */
  readonly SecurityOptions?: readonly string[] | null;
}

export interface DockerMount {
  readonly Type: string;
  /** of a volume */
  readonly Name?: string;
  readonly Source: string;
  readonly Destination: string;
  readonly RW?: boolean;
}

export interface DockerEndpoint {
  readonly IPAMConfig?: { readonly IPv4Address?: string } | null;
  readonly Links?: readonly string[] | null;
  readonly Aliases?: readonly string[] | null;
  readonly IPAddress?: string;
}

export interface DockerContainer {
  readonly Id: string;
  /** with a leading slash */
  readonly Name: string;
  /** id of the image, `sha256:...` */
  readonly Image: string;
  readonly State: {
    readonly Status: string;
    readonly Running: boolean;
    readonly Paused: boolean;
    readonly Restarting: boolean;
    readonly Pid: number;
  };
  readonly Config: Readonly<Record<string, unknown>> & {
    readonly Image: string;
    readonly Hostname?: string;
    readonly Labels?: Readonly<Record<string, string>> | null;
  };
  readonly HostConfig: Readonly<Record<string, unknown>> & DockerHostConfig;
  readonly Mounts: readonly DockerMount[];
  readonly NetworkSettings: { readonly Networks: Readonly<Record<string, DockerEndpoint>> };
  readonly GraphDriver: { readonly Name: string; readonly Data?: Readonly<Record<string, string>> | null };
}

export interface DockerHostConfig {
  readonly Runtime?: string;
  readonly AutoRemove?: boolean;
  readonly NetworkMode?: string;
  readonly UsernsMode?: string;
  readonly RestartPolicy?: { readonly Name: string } | null;
  readonly Binds?: readonly string[] | null;
  readonly PortBindings?: Readonly<Record<string, readonly DockerPort[] | null>> | null;
  readonly VolumesFrom?: readonly string[] | null;
  readonly Links?: readonly string[] | null;
}

export interface DockerPort {
  readonly HostIp?: string;
  readonly HostPort?: string;
}

/** Calls throw RuntimeUnavailable when no daemon answers, else Internal with Docker's own message and `details.status`. */
export interface Docker {
  info(): Promise<DockerInfo>;
  /** @param name name or id, also a short one */
  container(name: string): Promise<DockerContainer | undefined>;
  /** @returns its id */
  image(ref: string): Promise<string | undefined>;
  hasVolume(name: string): Promise<boolean>;
  hasNetwork(name: string): Promise<boolean>;
  /** @returns id of the new container */
  createContainer(name: string, body: object): Promise<string>;
  connectNetwork(network: string, containerId: string, endpoint: object): Promise<void>;
  /** Returns when its first process runs; one that runs already is success. */
  startContainer(id: string): Promise<void>;
  /** SIGKILL; one that does not run is success */
  killContainer(id: string): Promise<void>;
  /** With force; its volumes stay. Absent is success. */
  removeContainer(id: string): Promise<void>;
}
