/** Lets in so much at once, in order; a lower limit lets those inside end. What weighs more than all gets in alone. */
export class Gate {
  #limit: number;
  #inside = 0;
  readonly #waiting: Array<{ readonly weight: number; readonly enter: () => void }> = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get isEmpty(): boolean {
    return this.#inside === 0 && this.#waiting.length === 0;
  }

  setLimit(limit: number): void {
    this.#limit = limit;
    this.#open();
  }

  async run<Result>(act: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    const leave = await this.enter(1, signal);
    try {
      return await act();
    } finally {
      leave();
    }
  }

  /** @returns to be called once */
  async enter(weight: number, signal?: AbortSignal): Promise<() => void> {
    if (this.#waiting.length > 0 || !this.#fits(weight)) {
      await this.#turn(weight, signal);
    } else {
      this.#inside += weight;
    }
    return () => {
      this.#inside -= weight;
      this.#open();
    };
  }

  async #turn(weight: number, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const turn = Promise.withResolvers<void>();
    const waiting = { weight, enter: turn.resolve };
    const abort = (): void => {
      const at = this.#waiting.indexOf(waiting);
      if (at === -1) {
        // let in by the listener of another waiter of the same signal, a moment ago: it is inside, and leaves as others do
        return;
      }
      this.#waiting.splice(at, 1);
      turn.reject(signal?.reason);
      this.#open();
    };
    this.#waiting.push(waiting);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await turn.promise;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  #fits(weight: number): boolean {
    return this.#inside === 0 || this.#inside + weight <= this.#limit;
  }

  #open(): void {
    for (let first = this.#waiting[0]; first !== undefined && this.#fits(first.weight); first = this.#waiting[0]) {
      this.#waiting.shift();
      this.#inside += first.weight;
      first.enter();
    }
  }
}
