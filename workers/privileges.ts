/*
 * How a process that root started becomes another user's for good. Directories that it goes on using are opened before:
 * they may lie below one that only root may enter, and are then reached through their descriptors.
 */
import { accessSync, closeSync, constants, openSync } from 'node:fs';
import { KybernateError, messageOf } from '../core/errors.ts';

export interface Account {
  readonly userId: number;
  readonly groupId: number;
}

/** Directories by their descriptors, which the user that opened them left behind. */
export class OpenDirectories {
  readonly #descriptors = new Map<string, number>();

  /** @throws InvalidInput it cannot be opened */
  add(dir: string): void {
    try {
      this.#descriptors.set(dir, openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY));
    } catch (error) {
      throw new KybernateError('InvalidInput', `cannot open the directory ${dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** The path by which this process reaches the directory now: its own, where that can be passed through. */
  pathOf(dir: string): string {
    try {
      accessSync(dir, constants.X_OK);
      return dir;
    } catch {
      // Whatever is in the way: the descriptor has been there already, and the next call tells what is wrong inside.
      const descriptor = this.#descriptors.get(dir);
      return descriptor === undefined ? dir : `/proc/self/fd/${descriptor}`;
    }
  }

  close(): void {
    for (const descriptor of this.#descriptors.values()) {
      closeSync(descriptor);
    }
    this.#descriptors.clear();
  }
}

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/**
 * Gives up root for good: user, group, every supplementary group, and with them all capabilities.
 * @throws Internal when any of it did not take
 */
export function dropPrivileges({ userId, groupId }: Account): void {
  process.setgroups?.([groupId]);
  process.setgid?.(groupId);
  process.setuid?.(userId);
  const now = [process.getuid?.(), process.geteuid?.(), process.getgid?.(), process.getegid?.()];
  const groups = process.getgroups?.() ?? [];
  if (now.join() !== [userId, userId, groupId, groupId].join() || groups.some((group) => group !== groupId)) {
    throw new KybernateError('Internal', `the process is ${now.join()} with groups ${groups.join()} after the change`);
  }
}
