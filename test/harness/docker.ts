/*
 * A private Docker daemon: Debian's, from the cache, with the containerd and runc that belong to it, below a directory of
 * the run, and our runtime registered as `kybernate`. Its networks need no iptables; the machine's settings stay as they
 * are.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { buildImage } from '../../cli/dev/images.ts';
import { findDaemon, logTail, readDaemons, startDaemon, stopDaemon } from '../../cli/dev/process.ts';
import { shimDirOf } from '../../cli/dev/shim.ts';
import { waitFor } from '../../cli/dev/wait.ts';
import { librariesOf } from '../../cli/setup/debian.ts';
import { PROGRAMS, requireProgram } from '../../cli/setup/programs.ts';
import { connectDocker } from '../../native/docker/client.ts';
import type { Docker } from '../../native/docker/docker.ts';
import { descendantPids, listProcesses } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { fromLane } from './provided.ts';

const NAME = 'dockerd';
export const DOCKER_IMAGES = {
  busybox: 'kybernate/busybox:1',
  redis: 'kybernate/redis:1',
  python: 'kybernate/python:1',
};
export type DockerImage = keyof typeof DOCKER_IMAGES;

export class DockerDaemon {
  readonly dir: string;
  readonly socket: string;
  readonly api: Docker;
  readonly env: Readonly<Record<string, string>>;

  private constructor(dir: string) {
    this.dir = dir;
    this.socket = join(dir, 'docker.sock');
    this.api = connectDocker(this.socket);
    const { criu } = fromLane('programs');
    const own = [dirname(requireProgram('dockerd', process.env)), dirname(requireProgram('docker', process.env))];
    this.env = {
      PATH: [...own, dirname(criu), process.env['PATH'] ?? ''].join(':'),
      LD_LIBRARY_PATH: librariesOf(PROGRAMS.dockerd, process.env),
      DOCKER_HOST: `unix://${this.socket}`,
      HOME: dir,
    };
  }

  /** What a node worker must be told. */
  get variables(): Record<string, string> {
    return {
      KYBERNATE_DOCKER_SOCKET: this.socket,
      KYBERNATE_DOCKER_CONTAINERD: join(this.dir, 'x/containerd/containerd.sock'),
    };
  }

  /** @param name short: sockets lie below it */
  static async start(name: string): Promise<DockerDaemon> {
    const { dir } = fromLane('containerd');
    const daemon = new DockerDaemon(join(dir, name));
    mkdirSync(daemon.dir, { recursive: true });
    const file = join(daemon.dir, 'daemon.json');
    const settings = {
      'data-root': join(daemon.dir, 'data'),
      'exec-root': join(daemon.dir, 'x'),
      pidfile: join(daemon.dir, 'dockerd.pid'),
      hosts: [`unix://${daemon.socket}`],
      'storage-driver': 'overlay2',
      bridge: 'none',
      iptables: false,
      'ip-forward': false,
      'ip-masq': false,
      // for `docker checkpoint`
      experimental: true,
      runtimes: { kybernate: { path: join(shimDirOf(dir), 'kybernate-runtime/runc') } },
    };
    writeFileSync(file, JSON.stringify(settings));
    await daemon.#run(file);
    return daemon;
  }

  async #run(file: string): Promise<void> {
    const record = await startDaemon(this.dir, {
      name: NAME,
      file: requireProgram('dockerd', process.env),
      args: ['--config-file', file],
      env: this.env,
    });
    await waitFor(
      'answer from dockerd',
      30_000,
      () =>
        this.api.info().then(
          () => true,
          () => false,
        ),
      () => `\n${logTail(record.logFile)}`,
    );
  }

  /** Also after a crash of it. */
  async restart(): Promise<void> {
    await stopDaemon(this.dir, NAME);
    await this.#run(join(this.dir, 'daemon.json'));
  }

  /** As a power failure: nothing of it or of its containers ends in order, and what would lie on tmpfs is gone. */
  async loseByPowerFailure(): Promise<void> {
    const own = listProcesses().filter(({ commandLine }) => commandLine.includes(`${this.dir}/`));
    for (const hostPid of new Set(own.flatMap((one) => [one.hostPid, ...descendantPids(one.hostPid)]))) {
      try {
        process.kill(hostPid, 'SIGKILL');
      } catch {
        // ESRCH: it ended with another one.
      }
    }
    await waitFor('end of dockerd', 10_000, () => findDaemon(this.dir, NAME) === undefined);
    await this.#unmount();
    rmSync(join(this.dir, 'x'), { recursive: true, force: true });
  }

  async #unmount(): Promise<void> {
    for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n').reverse()) {
      const target = line.split(' ')[4] ?? '';
      if (target.startsWith(`${this.dir}/`)) {
        await runExeca('umount', ['-l', target]);
      }
    }
  }

  async docker(...args: string[]): Promise<string> {
    const result = await runExeca(requireProgram('docker', process.env), args, { env: { ...this.env } });
    if (result.exitCode !== 0) {
      throw new Error(`docker ${args.join(' ')}: ${result.startError ?? result.stderr}`);
    }
    return result.stdout.trim();
  }

  /** From the layer of the run's own image. */
  async importImages(...names: DockerImage[]): Promise<void> {
    for (const name of names) {
      const archive = await buildImage(
        `docker.io/${DOCKER_IMAGES[name]}` as 'docker.io/kybernate/busybox:1',
        process.env,
      );
      const layer = join(this.dir, 'layer.tar');
      await extractLayer(archive, layer);
      const env = [
        'PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'PYTHONDONTWRITEBYTECODE=1',
        'PYTHONUNBUFFERED=1',
      ];
      await this.docker('import', ...env.flatMap((one) => ['--change', `ENV ${one}`]), layer, DOCKER_IMAGES[name]);
      rmSync(layer);
    }
  }

  logs(): string {
    return logTail(readDaemons(this.dir).find(({ name }) => name === NAME)?.logFile ?? '', 60);
  }

  async removeContainers(): Promise<void> {
    const ids = (await this.docker('ps', '-aq')).split('\n').filter((id) => id !== '');
    if (ids.length > 0) {
      await this.docker('rm', '-f', '-v', ...ids);
    }
    // The daemon would leave their bridges.
    await this.docker('network', 'prune', '--force');
  }

  /** A bridge of a run that was killed would take the packets for the new one's addresses: it goes first. */
  async makeNetwork(name: string, subnet: number): Promise<void> {
    const bridge = `kybdock${subnet}`;
    await runExeca('ip', ['link', 'delete', bridge]);
    const flags = ['--subnet', `10.213.${subnet}.0/24`, '-o', `com.docker.network.bridge.name=${bridge}`];
    await this.docker('network', 'create', ...flags, name);
  }

  async close(): Promise<void> {
    await this.removeContainers().catch(() => undefined);
    await stopDaemon(this.dir, NAME);
    await this.#unmount();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** The one layer of an OCI layout, whose blobs are not compressed. */
async function extractLayer(archive: string, target: string): Promise<void> {
  const member = async (path: string): Promise<string> => (await tar(['-xOf', archive, path])).stdout;
  interface Descriptor {
    readonly digest: string;
  }
  const blob = ({ digest }: Descriptor): string => `./blobs/${digest.replace(':', '/')}`;
  const { manifests } = JSON.parse(await member('./index.json')) as { manifests: [Descriptor] };
  const { layers } = JSON.parse(await member(blob(manifests[0]))) as { layers: [Descriptor] };
  await tar(['-xf', archive, '-C', dirname(target), '--transform=s,.*/,,', blob(layers[0])]);
  await runExeca('mv', [join(dirname(target), layers[0].digest.split(':')[1] ?? ''), target]);
}

async function tar(args: readonly string[]): Promise<{ stdout: string }> {
  const result = await runExeca('tar', args);
  if (result.exitCode !== 0) {
    throw new Error(`tar ${args.join(' ')}: ${result.stderr}`);
  }
  return result;
}
