/*
 * Several users of one store, whose calls are let through one at a time in an order that a seed decides: every
 * interleaving of calls can come up, and the same seed brings the same choices. After each call it is checked that no
 * published checkpoint has lost anything. Users may die or stand still between any two calls.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type { Backend, ObjectInfo } from '../../store/backend/backend.ts';
import { findManifest } from '../../store/catalog.ts';
import { checkpointOfManifest, fileListKey, packKey } from '../../store/keys.ts';

/** A call waits for its turn at most this long: real calls end, too. */
const PATIENCE_MS = 600_000;
const NEVER = new AbortController().signal;

/** Numbers from 0 to 1, the same for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Waiting {
  readonly actor: Actor;
  readonly text: string;
  readonly sinceMs: number;
  readonly go: () => Promise<void>;
}

interface Actor {
  readonly name: string;
  dead: boolean;
  /** until then it does nothing, as a process that is not given the processor */
  stillUntilMs: number;
}

/** Longer than a lease lasts, and than a deleter may trust its list. */
const STILL_MS = 70 * 60_000;

export class Interleaving {
  readonly violations: string[] = [];
  /** the last calls, for whoever has to understand a violation */
  readonly trace: string[] = [];
  readonly #raw: Backend;
  readonly #random: () => number;
  readonly #advance: (ms: number) => Promise<unknown>;
  readonly #waiting: Waiting[] = [];
  readonly #modified = new Map<string, number>();
  readonly #needed = new Map<string, ReadonlySet<string>>();
  #running = new Set<Actor>();

  /** @param advance moves the clock of everybody */
  constructor(raw: Backend, random: () => number, advance: (ms: number) => Promise<unknown>) {
    this.#raw = raw;
    this.#random = random;
    this.#advance = advance;
  }

  /** Starts a user; `act` must catch what it expects. */
  start(name: string, act: (backend: Backend) => Promise<void>): void {
    const actor = { name, dead: false, stillUntilMs: 0 };
    this.#running.add(actor);
    void act(this.#backend(actor))
      .catch((error: unknown) => {
        if (!actor.dead) {
          this.violations.push(`${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
        }
      })
      .finally(() => this.#running.delete(actor));
  }

  get running(): number {
    return this.#running.size;
  }

  kill(): void {
    const [actor] = [...this.#running].filter(() => this.#random() < 0.5);
    if (actor !== undefined) {
      actor.dead = true;
      this.#running.delete(actor);
      this.#note(`${actor.name} dies`);
    }
  }

  /**
   * Keeps a user from doing anything for longer than a lease lasts. Not one that has just sent its manifest or a
   * deletion: calls to a store are over within seconds.
   * @param but users that may be lost when their leases run out
   */
  stall(but: RegExp): void {
    const unsafe = new Set(
      this.#waiting.filter(({ text }) => /^(?:putIfAbsent|delete) /.test(text)).map(({ actor }) => actor),
    );
    const [actor] = [...this.#running].filter((one) => !unsafe.has(one) && !but.test(one.name) && this.#random() < 0.5);
    if (actor !== undefined) {
      actor.stillUntilMs = Date.now() + STILL_MS;
      this.#note(`${actor.name} stands still`);
    }
  }

  /** Lets one call through; time passes. */
  async step(): Promise<void> {
    await this.#settle();
    const alive = this.#waiting.filter(({ actor }) => !actor.dead);
    this.#waiting.splice(0, this.#waiting.length, ...alive);
    const awake = alive.filter(({ actor }) => actor.stillUntilMs < Date.now());
    if (awake.length === 0) {
      await this.#advance(60_000);
      return;
    }
    const overdue = awake.find(({ sinceMs }) => Date.now() - sinceMs > PATIENCE_MS);
    const chosen = overdue ?? awake[Math.floor(this.#random() * awake.length)];
    if (chosen !== undefined) {
      this.#waiting.splice(this.#waiting.indexOf(chosen), 1);
      this.#note(`${chosen.actor.name} ${chosen.text}`);
      await chosen.go();
    }
    await this.#advance(Math.floor(this.#random() * 20_000));
  }

  /** Until everybody waits for a turn, or nothing has happened for a while: then somebody sleeps. */
  async #settle(): Promise<void> {
    const startedMs = performance.now();
    while (this.#waiting.length < this.#running.size && performance.now() - startedMs < 15) {
      await turn();
    }
  }

  #note(text: string): void {
    this.trace.push(text);
    if (this.trace.length > 400) {
      this.trace.shift();
    }
  }

  #backend(actor: Actor): Backend {
    const raw = this.#raw;
    const call = <Result>(text: string, act: () => Promise<Result>): Promise<Result> =>
      new Promise((resolve, reject) => {
        const go = async (): Promise<void> => act().then(resolve, reject);
        this.#waiting.push({ actor, text, sinceMs: Date.now(), go });
      });
    const written = async (key: string): Promise<void> => {
      this.#modified.set(key, Date.now());
      await this.#published(key);
    };
    return {
      url: raw.url,
      put: (key, bytes) =>
        call(`put ${key}`, async () => {
          await raw.put(key, bytes);
          await written(key);
        }),
      putIfAbsent: (key, bytes) =>
        call(`putIfAbsent ${key}`, async () => {
          const made = await raw.putIfAbsent(key, bytes);
          if (made) {
            await written(key);
          }
          return made;
        }),
      get: (key, options) => call(`get ${key}`, () => raw.get(key, options)),
      head: (key, options) => call(`head ${key}`, async () => this.#dated(await raw.head(key, options))),
      list: (prefix, options) => this.#list(prefix, options?.after, call),
      delete: (key) =>
        call(`delete ${key}`, async () => {
          this.#deleted(key);
          await raw.delete(key);
        }),
      sweep: (olderThanMs) => call('sweep', () => raw.sweep(olderThanMs)),
      close: () => Promise.resolve(),
    };
  }

  /** Others may come between two entries. */
  async *#list(
    prefix: string,
    after: string | undefined,
    call: <Result>(text: string, act: () => Promise<Result>) => Promise<Result>,
  ): AsyncGenerator<ObjectInfo> {
    let last = after;
    for (;;) {
      const from = last;
      const page = await call(`list ${prefix}`, async () => {
        const found: ObjectInfo[] = [];
        for await (const object of this.#raw.list(prefix, from === undefined ? {} : { after: from })) {
          found.push(object);
          if (found.length > this.#random() * 12) {
            return found;
          }
        }
        return found;
      });
      for (const object of page) {
        yield this.#dated(object) ?? object;
      }
      last = page.at(-1)?.key;
      if (last === undefined) {
        return;
      }
    }
  }

  #dated(object: ObjectInfo | undefined): ObjectInfo | undefined {
    return object && { ...object, modifiedMs: this.#modified.get(object.key) ?? object.modifiedMs };
  }

  async #published(key: string): Promise<void> {
    const id = checkpointOfManifest(key);
    const manifest = id === undefined ? undefined : await findManifest(this.#raw, id, NEVER);
    if (id === undefined || manifest === undefined) {
      return;
    }
    const { digest } = 'files' in manifest ? manifest.files : manifest.encryption.list;
    const list = fileListKey(id, digest);
    const needed = [...manifest.packs.map(([pack]) => packKey(pack)), list];
    this.#needed.set(id, new Set(needed));
    for (const object of needed) {
      if ((await this.#raw.head(object)) === undefined) {
        this.violations.push(`${id} is published without ${object}`);
      }
    }
  }

  #deleted(key: string): void {
    const id = checkpointOfManifest(key);
    if (id !== undefined) {
      this.#needed.delete(id);
      return;
    }
    for (const [checkpoint, needed] of this.#needed) {
      if (needed.has(key)) {
        this.violations.push(`${checkpoint} has lost ${key}`);
      }
    }
  }
}
