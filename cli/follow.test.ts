import { describe, expect, it } from 'vitest';
import { follow } from './follow.ts';
import type { FollowOptions } from './follow.ts';
import type { Operation } from './operation.ts';
import { createInterrupts } from './terminal.ts';

/** An operation that ends when told, and a person who answers when told. */
function scene(options: { interactive: boolean }) {
  const said: string[] = [];
  const interrupts = createInterrupts(() => said.push('listening ended'));
  const end = Promise.withResolvers<string>();
  const answer = Promise.withResolvers<string | undefined>();
  const asked = Promise.withResolvers<void>();
  const cancelled = Promise.withResolvers<void>();
  const operation: Operation<string> = {
    workflowId: 'checkpoint:x',
    result: () => end.promise,
    progress: async () => undefined,
    release: async () => undefined,
    cancel: async () => {
      said.push('cancel');
      cancelled.resolve();
    },
  };
  const followOptions: FollowOptions = {
    painter: { update: () => undefined, pause: () => undefined, end: () => said.push('painted for the last time') },
    note: (text) => said.push(text.split('\n')[0] ?? ''),
    pollMs: 1,
    terminal: {
      interactive: options.interactive,
      listen: () => interrupts,
      ask: async () => {
        asked.resolve();
        return await answer.promise;
      },
      readAll: async () => '',
      input: async function* () {
        yield* [];
      },
      write: async () => undefined,
      onStop: () => () => undefined,
    },
  };
  return {
    said,
    interrupts,
    end,
    answer,
    asked: asked.promise,
    cancelled: cancelled.promise,
    operation,
    followOptions,
  };
}

const CANCELLING = 'cancelling: what was made is undone; Ctrl-C stops watching';

describe('follow', () => {
  it('returns the result and stops listening', async () => {
    const { operation, followOptions, end, said } = scene({ interactive: true });

    end.resolve('done');

    expect(await follow(operation, followOptions)).toEqual({ kind: 'done', result: 'done' });
    expect(said).toEqual(['painted for the last time', 'listening ended']);
  });

  it('says once why nobody works on it, and waits on', async () => {
    const { operation, followOptions, end, said } = scene({ interactive: false });
    const looks = [undefined, 'no control worker', 'again'];
    const look = async (): Promise<string | undefined> => {
      setTimeout(() => end.resolve('done'), 50);
      return looks.shift();
    };

    const followed = await follow(operation, { ...followOptions, unserved: { afterMs: 1, look } });

    expect(followed).toEqual({ kind: 'done', result: 'done' });
    expect(said).toEqual(['no control worker', 'painted for the last time', 'listening ended']);
    expect(looks).toEqual(['again']);
  });

  it('does not look for workers when one tells of progress', async () => {
    const { operation, followOptions, end, said } = scene({ interactive: false });
    const progress: Operation<string>['progress'] = async () => ({ phase: 'capturing', phases: [] }) as never;
    setTimeout(() => end.resolve('done'), 60);

    await follow(
      { ...operation, progress },
      { ...followOptions, unserved: { afterMs: 20, look: async () => 'nobody' } },
    );

    expect(said).toEqual(['painted for the last time', 'listening ended']);
  });

  it('names the checkpoint that stays when an operation is cancelled after the commit', async () => {
    const { operation, followOptions, interrupts, answer, cancelled, end, said } = scene({ interactive: true });
    const progress: Operation<string>['progress'] = async () =>
      ({ phase: 'holding', finished: [], committed: true, checkpointId: 'ck-1', node: 'n' }) as never;
    const asked: string[] = [];
    const terminal = {
      ...followOptions.terminal,
      ask: (question: string, signal: AbortSignal) => {
        asked.push(question);
        return followOptions.terminal.ask(question, signal);
      },
    };
    const following = follow({ ...operation, progress }, { ...followOptions, terminal });
    // A look at the progress comes first.
    await new Promise((resolve) => setTimeout(resolve, 20));
    interrupts.press();
    answer.resolve('c');
    await cancelled;
    end.reject(Object.assign(new Error('cancelled'), { name: 'CancelledFailure' }));

    await expect(following).rejects.toMatchObject({
      type: 'Cancelled',
      message: expect.stringContaining('checkpoint ck-1 had been committed before and stays on node n') as string,
      details: { checkpointId: 'ck-1', remedy: 'nothing to do; to remove it: kybernate rm ck-1' },
    });
    expect(asked).toEqual([expect.stringContaining('(its checkpoint stays)')]);
    expect(said[0]).toContain('checkpoint ck-1 is committed and stays');
  });

  it('throws what the operation failed with', async () => {
    const { operation, followOptions, end } = scene({ interactive: true });

    end.reject(new Error('DumpFailed'));

    await expect(follow(operation, followOptions)).rejects.toThrow('DumpFailed');
  });

  it('detaches at Ctrl-C without a terminal, and does not cancel', async () => {
    const { operation, followOptions, interrupts, said } = scene({ interactive: false });

    interrupts.press();

    expect(await follow(operation, followOptions)).toEqual({ kind: 'detached' });
    expect(said).toEqual(['detached: the operation goes on', 'listening ended']);
  });

  it('asks at Ctrl-C on a terminal, and detaches when told so', async () => {
    const { operation, followOptions, interrupts, answer, said } = scene({ interactive: true });

    interrupts.press();
    answer.resolve('d');

    expect(await follow(operation, followOptions)).toEqual({ kind: 'detached' });
    expect(said).not.toContain('cancel');
  });

  it('cancels when told so, and waits for the end of the operation', async () => {
    const { operation, followOptions, interrupts, answer, cancelled, end, said } = scene({ interactive: true });

    interrupts.press();
    answer.resolve('Cancel');
    const followed = follow(operation, followOptions);
    await cancelled;
    end.reject(new Error('cancelled'));

    await expect(followed).rejects.toThrow('cancelled');
    expect(said.slice(0, 2)).toEqual([CANCELLING, 'cancel']);
  });

  it('cancels at a second Ctrl-C while it asks', async () => {
    const { operation, followOptions, interrupts, asked, cancelled, end, said } = scene({ interactive: true });

    const followed = follow(operation, followOptions);
    interrupts.press();
    await asked;
    interrupts.press();
    await cancelled;
    end.reject(new Error('cancelled'));

    await expect(followed).rejects.toThrow('cancelled');
    expect(said).toContain('cancel');
  });

  it('stops watching a cancellation at a third Ctrl-C', async () => {
    const { operation, followOptions, interrupts, asked, cancelled, said } = scene({ interactive: true });

    const followed = follow(operation, followOptions);
    interrupts.press();
    await asked;
    interrupts.press();
    await cancelled;
    interrupts.press();

    expect(await followed).toEqual({ kind: 'detached' });
    expect(said).toContain('detached: the cancellation goes on');
  });

  it.each([['w'], [''], ['x'], [undefined]])('watches on when the answer is %j', async (line) => {
    const { operation, followOptions, interrupts, answer, asked, end, said } = scene({ interactive: true });

    const followed = follow(operation, followOptions);
    interrupts.press();
    await asked;
    answer.resolve(line);
    end.resolve('done');

    expect(await followed).toEqual({ kind: 'done', result: 'done' });
    expect(said).not.toContain('cancel');
  });

  it('takes the end of the operation for an answer', async () => {
    const { operation, followOptions, interrupts, asked, end } = scene({ interactive: true });

    const followed = follow(operation, followOptions);
    interrupts.press();
    await asked;
    end.resolve('done');

    expect(await followed).toEqual({ kind: 'done', result: 'done' });
  });

  it('goes on when the progress cannot be had, and says so once', async () => {
    const { operation, followOptions, end, said } = scene({ interactive: false });
    let looks = 0;
    const silent: Operation<string> = {
      ...operation,
      progress: async () => {
        looks += 1;
        if (looks === 3) {
          end.resolve('done');
        }
        throw new Error('no worker');
      },
    };

    expect(await follow(silent, followOptions)).toEqual({ kind: 'done', result: 'done' });
    expect(said.filter((text) => text === 'no progress to show: no worker')).toHaveLength(1);
  });
});
