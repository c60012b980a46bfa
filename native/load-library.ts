/*
 * The one place that loads shared libraries. koffi runs what it calls on stacks of its own, 128 KiB for asynchronous calls:
 * a library such as libcuda expects what every thread of a process has, 8 MiB. The size can be set only before the first
 * library is loaded, whichever that is.
 */
import koffi, { type LibraryHandle } from 'koffi';

/** Address space; a page takes memory when it is used. */
const STACK_BYTES = 8 * 1024 * 1024;

let configured = false;

/**
 * @param path a soname, which the dynamic loader looks up, or a path
 * @throws Error with the text of the dynamic loader
 */
export function loadLibrary(path: string): LibraryHandle {
  if (!configured) {
    koffi.config({ sync_stack_size: STACK_BYTES, async_stack_size: STACK_BYTES });
    configured = true;
  }
  return koffi.load(path);
}
