/* Checkpoints as node and store list them: each must be whole, down to its last byte, and nothing else may be listed. */
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { manifestIds } from '../../store/catalog.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { verifyLocal, verifyRemote } from '../../store/verify.ts';
import type { Rig } from './rig.ts';

const silent = (): void => undefined;
const OP: Op = {
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};

export class Copies {
  readonly #rig: Rig;
  /** whole when they were looked at; nobody changes a checkpoint afterwards */
  readonly #known = new Set<string>();
  readonly #used = new Set<string>();
  #last: Promise<unknown> = Promise.resolve();
  local: readonly string[] = [];
  remote: readonly string[] = [];

  constructor(rig: Rig) {
    this.#rig = rig;
  }

  /** An operation that makes it or restores from it has begun: nobody removes it, until its job is judged. */
  use(checkpointId: string): void {
    this.#used.add(checkpointId);
  }

  /** Reads every byte of what is new. @returns what is listed and not whole */
  look(): Promise<string[]> {
    return this.#alone(() => this.#look());
  }

  /** Nobody removes what another one reads. */
  #alone<Result>(act: () => Promise<Result>): Promise<Result> {
    const mine = this.#last.then(act);
    this.#last = mine.catch(() => undefined);
    return mine;
  }

  async #look(): Promise<string[]> {
    const bad: string[] = [];
    const whole = async (key: string, read: () => Promise<unknown>): Promise<void> => {
      if (this.#known.has(key)) {
        return;
      }
      try {
        await read();
        this.#known.add(key);
      } catch (error) {
        bad.push(`${key} is listed and not whole: ${messageOf(error)}`);
      }
    };
    const catalog = localCatalog(join(this.#rig.stateDir, 'checkpoints'));
    const { checkpoints, damaged } = await catalog.list();
    bad.push(...damaged.map(({ checkpointId, reason }) => `local ${checkpointId} is listed as damaged: ${reason}`));
    for (const { checkpointId, path } of checkpoints) {
      await whole(`local ${checkpointId}`, async () => verifyLocal(path, await catalog.manifest(checkpointId), OP));
    }
    const backend = this.#rig.openStore();
    const remote: string[] = [];
    for await (const id of manifestIds(backend, OP.signal)) {
      remote.push(id);
    }
    for (const checkpointId of remote) {
      await whole(`stored ${checkpointId}`, () => verifyRemote({ checkpointId, backend, op: OP }));
    }
    this.local = checkpoints.map(({ checkpointId }) => checkpointId);
    this.remote = remote;
    return bad;
  }

  /**
   * Removes all others from the node, as their owner does who needs only the newest.
   * @param done nobody uses it any more
   */
  keep(ids: () => readonly string[], done: string): Promise<void> {
    this.#used.delete(done);
    // Asked when it is done: others commit while this waits for its turn.
    return this.#alone(() => this.#keep(new Set([...ids(), ...this.#used])));
  }

  async #keep(ids: ReadonlySet<string>): Promise<void> {
    const catalog = localCatalog(join(this.#rig.stateDir, 'checkpoints'));
    for (const id of this.local.filter((one) => !ids.has(one))) {
      await catalog.remove(id);
      this.#known.delete(`local ${id}`);
    }
    this.local = this.local.filter((one) => ids.has(one));
  }
}
