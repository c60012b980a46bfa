/*
 * A hook's file, opened and looked at so that what was looked at is what runs: every directory from `/` on is opened from
 * its parent's descriptor, no symbolic link is followed, and the descriptor itself is executed. Nobody but root can make
 * another file of it in between, and root may.
 */
import { closeSync, constants, existsSync, fstatSync, lstatSync, openSync, readSync, type Stats } from 'node:fs';
import { delimiter, join, relative } from 'node:path';
import { messageOf } from '../core/errors.ts';

/** Programs that a hook starts are looked up here; it inherits nothing. */
export const HOOK_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Whose files may run, and from which directory on that is looked at. */
export interface Trust {
  readonly uid: number;
  readonly from: string;
}

const ROOTS_OWN: Trust = { uid: 0, from: '/' };

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;
const WRITABLE_BY_OTHERS = 0o022;
const EXECUTABLE = 0o111;
const MAX_FIRST_LINE = 256;

/** The caller closes `fd`; `refusal` says why it must not run, and what to do. */
export type OpenedHook = { readonly fd: number } | { readonly refusal: string };

/** @param path absolute and normalised, below `trust.from` */
export function openHook(path: string, trust: Trust = ROOTS_OWN): OpenedHook {
  let at = trust.from;
  let fd = openSync(at, O_RDONLY | O_DIRECTORY);
  const refused = (refusal: string): OpenedHook => {
    closeSync(fd);
    return { refusal };
  };
  const names = relative(trust.from, path).split('/');
  for (const [index, name] of names.entries()) {
    const isFile = index === names.length - 1;
    const unsafe = unsafeOwner(at, fstatSync(fd), trust);
    if (unsafe !== undefined) {
      return refused(unsafe);
    }
    const parent = fd;
    at = join(at, name);
    try {
      fd = openSync(`/proc/self/fd/${parent}/${name}`, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | (isFile ? 0 : O_DIRECTORY));
    } catch (error) {
      return refused(whyNotOpened(at, `/proc/self/fd/${parent}/${name}`, error));
    }
    closeSync(parent);
  }
  const unfit = unsafeOwner(at, fstatSync(fd), trust) ?? notExecutable(at, fd);
  return unfit === undefined ? { fd } : refused(unfit);
}

function unsafeOwner(path: string, { uid, mode }: Stats, trust: Trust): string | undefined {
  if (uid !== trust.uid) {
    return `${path} is owned by uid ${uid}: chown root ${path}`;
  }
  // The mask of an access control list stands in the bits of the group.
  return (mode & WRITABLE_BY_OTHERS) === 0
    ? undefined
    : `${path} can be written by others than root (mode ${(mode & 0o7777).toString(8).padStart(4, '0')}): chmod go-w ${path}`;
}

function whyNotOpened(path: string, here: string, error: unknown): string {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
    return `${path} is not there any more`;
  }
  return lstatSync(here, { throwIfNoEntry: false })?.isSymbolicLink() === true
    ? `${path} is a symbolic link: put the file itself there`
    : `${path} cannot be opened: ${messageOf(error)}`;
}

function notExecutable(path: string, fd: number): string | undefined {
  const stats = fstatSync(fd);
  if (!stats.isFile()) {
    return `${path} is no regular file: take it away`;
  }
  if ((stats.mode & EXECUTABLE) === 0) {
    return `${path} is not executable: chmod u+x ${path}, or take it away`;
  }
  const bytes = Buffer.alloc(MAX_FIRST_LINE);
  const text = bytes.toString('latin1', 0, readSync(fd, bytes, 0, MAX_FIRST_LINE, 0));
  const line = /^#![ \t]*([^ \t\n]+)[ \t]*([^ \t\n]*)/.exec(text);
  const missing = line === null ? undefined : missingInterpreter(line[1] ?? '', line[2] ?? '');
  return missing === undefined
    ? undefined
    : `${path}: its interpreter ${JSON.stringify(missing)} is not there: correct its first line, or install that`;
}

/** `env` looks its argument up itself. */
function missingInterpreter(interpreter: string, argument: string): string | undefined {
  if (!existsSync(interpreter)) {
    return interpreter;
  }
  const isLookedUp = interpreter.endsWith('/env') && /^[\w.+-]+$/.test(argument) && !argument.startsWith('-');
  return isLookedUp && !HOOK_PATH.split(delimiter).some((dir) => existsSync(join(dir, argument)))
    ? argument
    : undefined;
}
