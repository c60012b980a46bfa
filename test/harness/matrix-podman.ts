/* Podman as a platform of the support matrix: in place with our runtime, and by archives from it and to it. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import type { Kind } from './matrix-data.ts';
import { type Platform, WORKLOADS_DIR } from './matrix.ts';
import type { Podman } from './podman.ts';
import { runCliJson } from './run-cli.ts';
import { PYTHON, REDIS, type Stack } from './stack.ts';

let serial = 0;

function nextName(): string {
  serial += 1;
  return `p${serial}`;
}

/** In Podman, by the name that they have in containerd: archives carry it. */
async function imageOf(kind: Kind, stack: Stack, podman: Podman): Promise<string> {
  const image = kind === 'redis' ? REDIS : PYTHON;
  const known = await podman.run('images', '--format', '{{.Repository}}:{{.Tag}}');
  if (!known.split('\n').includes(image)) {
    const archive = join(stack.dir, `${kind === 'redis' ? 'redis' : 'python'}.tar`);
    if (!existsSync(archive)) {
      await stack.ctr('images', 'export', '--local', archive, image);
    }
    await podman.run('load', '--input', archive);
  }
  return image;
}

async function startIn(podman: Podman, stack: Stack, kind: Kind, command: readonly string[]): Promise<string> {
  const name = nextName();
  const flags = [...(kind === 'tty' ? ['-t'] : []), '-v', `${WORKLOADS_DIR}:/w:ro`];
  await podman.start(name, await imageOf(kind, stack, podman), command, flags);
  return name;
}

/** Podman has to be told of connections, at both ends. */
function flagsOf(kind: Kind): string[] {
  return kind === 'tcp' ? ['--tcp-established'] : [];
}

/** Of what Podman prints of a dump log: what CRIU itself says, without its places in the source. */
function refusalOfCriu(printed: string): string {
  const said = /Error \(criu\/files[^)]*\): ([^"\n]+)/.exec(printed)?.[1];
  return said === undefined ? printed : `by CRIU, in Podman's own checkpoint with the stock runc: ${said}`;
}

async function removeFrom(podman: Podman, name: string): Promise<void> {
  if (name !== '') {
    await podman.run('rm', '--force', '--ignore', '--time', '0', name);
  }
}

/** Podman's own checkpoint and restore of a container that stays where it is. */
export class InPodman implements Platform {
  readonly #podman: Podman;
  readonly #stack: Stack;
  #name = '';

  constructor(stack: Stack, podman: Podman) {
    this.#stack = stack;
    this.#podman = podman;
  }

  pid(): Promise<number> {
    return this.#podman.pid(this.#name);
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    this.#name = await startIn(this.#podman, this.#stack, kind, command);
  }

  async checkpoint(kind: Kind): Promise<void> {
    await this.#podman.run('container', 'checkpoint', ...flagsOf(kind), this.#name);
  }

  async restore(kind: Kind): Promise<void> {
    await this.#podman.run('container', 'restore', ...flagsOf(kind), this.#name);
  }

  remove(): Promise<void> {
    return removeFrom(this.#podman, this.#name);
  }
}

/** `podman container checkpoint --export`, imported: a container of containerd goes on. */
export class FromPodman implements Platform {
  readonly #podman: Podman;
  readonly #stack: Stack;
  readonly #containerd: Containerd;
  #name = '';
  #restored = '';

  constructor(stack: Stack, containerd: Containerd, podman: Podman) {
    this.#stack = stack;
    this.#containerd = containerd;
    this.#podman = podman;
  }

  async pid(): Promise<number> {
    return this.#restored === ''
      ? this.#podman.pid(this.#name)
      : ((await this.#containerd.getTask(this.#stack.namespace, this.#restored))?.pid ?? 0);
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    this.#name = await startIn(this.#podman, this.#stack, kind, command);
  }

  async checkpoint(kind: Kind): Promise<void> {
    const archive = join(this.#stack.dir, `${this.#name}.tar`);
    await this.#podman
      .run('container', 'checkpoint', ...flagsOf(kind), '--export', archive, this.#name)
      .catch((error: unknown) => {
        throw new Error(refusalOfCriu(messageOf(error)));
      });
    await removeFrom(this.#podman, this.#name);
  }

  async restore(): Promise<void> {
    const archive = join(this.#stack.dir, `${this.#name}.tar`);
    await runCliJson(this.#stack.variables, 'import', archive, '--id', this.#name);
    rmSync(archive);
    this.#restored = `${this.#name}r`;
    await this.#stack.restore(this.#name, this.#restored);
  }

  async remove(): Promise<void> {
    await removeFrom(this.#podman, this.#name);
    if (this.#restored !== '') {
      await this.#stack.removeContainer(this.#restored);
    }
  }
}

/** What can be told of a source on another platform. */
export interface Source extends Platform {
  /** of its last checkpoint */
  readonly checkpointId: string;
}

/** A checkpoint of ours, exported: a container of Podman goes on. */
export class ToPodman implements Platform {
  readonly #podman: Podman;
  readonly #stack: Stack;
  readonly #source: Source;
  #archive = '';
  #name = '';

  constructor(stack: Stack, source: Source, podman: Podman) {
    this.#stack = stack;
    this.#source = source;
    this.#podman = podman;
  }

  pid(): Promise<number> {
    return this.#name === '' ? this.#source.pid() : this.#podman.pid(this.#name);
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    await imageOf(kind, this.#stack, this.#podman);
    await this.#source.start(kind, command);
  }

  async checkpoint(kind: Kind): Promise<void> {
    await this.#source.checkpoint(kind);
    this.#archive = join(this.#stack.dir, `${this.#source.checkpointId}.tar`);
    const to = ['--format', 'podman', '-o', this.#archive];
    await runCliJson(this.#stack.variables, 'export', this.#source.checkpointId, ...to);
    await this.#source.remove();
  }

  /** Under the name that the archive has: with another one Podman keeps no connections. */
  async restore(kind: Kind): Promise<void> {
    this.#name = await this.#podman.run('container', 'restore', ...flagsOf(kind), '--import', this.#archive);
    rmSync(this.#archive);
  }

  async remove(): Promise<void> {
    await this.#source.remove();
    await removeFrom(this.#podman, this.#name);
  }
}
