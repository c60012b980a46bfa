/**
 * UV_THREADPOOL_SIZE of a process that calls the GPU driver: so many processes are saved or restored at once, and the
 * reading of files does not wait for them. libuv's own 4 would let the fifth process of a container wait for the first.
 */
export const DRIVER_THREADS = '32';
