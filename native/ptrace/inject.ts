/*
 * System calls made by another process for us. All its threads are stopped first; one of them then executes `syscall`
 * instructions that lie in its vdso, with our registers, and gets its own back. It must not notice:
 *   - signals stay pending meanwhile (PTRACE_SETSIGMASK), but for SIGKILL and SIGSTOP, which are passed on;
 *   - a call that the stop interrupted goes on: the registers are put back as the kernel left them, and the thread is
 *     brought into a stop of the kernel's signal path once more, which restarts the call or returns EINTR as it should;
 *   - no critical section of restartable sequences is broken: a thread inside a system call is preferred.
 * A tracer that dies lets go of everything by itself; within the calls themselves, for some microseconds each, that
 * would leave our registers behind. x86-64 alone.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { arch } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../../core/errors.ts';
import { numericEntries, readProc } from '../proc/read.ts';
import { readMaps } from '../proc/maps.ts';
import {
  CS,
  ORIG_RAX,
  PTRACE_CONT,
  PTRACE_DETACH,
  PTRACE_EVENT_STOP,
  PTRACE_GETREGS,
  PTRACE_GETSIGMASK,
  PTRACE_INTERRUPT,
  PTRACE_O_TRACESYSGOOD,
  PTRACE_SEIZE,
  PTRACE_SETREGS,
  PTRACE_SETSIGMASK,
  PTRACE_SYSCALL,
  R10,
  R8,
  R9,
  RAX,
  RDI,
  RDX,
  REGISTERS,
  RIP,
  RSI,
  SIGSET_BYTES,
  SYSCALL_INSTRUCTION,
  SYSCALL_STOP,
  USER_CS_64,
} from './abi.ts';
import { pollThread, ptrace, PtraceError, ptraceReceive, ptraceSend } from './bindings.ts';

/** A thread that does not stop by then waits for a device or a network file system. */
const STOP_MS = 2000;
/** Between two looks at a thread that is to stop. */
const POLL_MS = 1;
/** How long one injected call may take: after it the process would not be what it was. Ours wait for nothing. */
const CALL_MS = 10_000;
/** So long a stop is looked for without giving the processor away. */
const SPIN_MS = 2;
/** Rounds of seizing: a thread that we have not stopped yet may start another one. */
const MAX_ROUNDS = 20;

export type InjectedCall = readonly [number: number, ...parameters: bigint[]];

/** Makes calls in the stopped process, one after the other. @returns what the kernel answered, negative: -errno */
export type Inject = (call: InjectedCall) => bigint;

export function canInject(): boolean {
  return arch() === 'x64';
}

/**
 * Stops the process, lets `use` make calls in it, and lets it run on exactly where it was, whatever happens.
 * @returns undefined when the process has ended before or meanwhile
 * @throws Internal it cannot be traced, does not stop, or does not run 64 bit code; it runs on
 */
export async function withStopped<T>(hostPid: number, use: (inject: Inject) => T): Promise<T | undefined> {
  if (!canInject()) {
    throw new KybernateError(
      'Internal',
      `system calls can be made in another process on x86-64 alone, not on ${arch()}`,
    );
  }
  const seized = new Set<number>();
  try {
    await stopAll(hostPid, seized);
    return seized.size === 0 ? undefined : injectIn(hostPid, seized, use);
  } catch (error) {
    if (error instanceof PtraceError && error.errno === 'ESRCH' && !isAlive(hostPid)) {
      return undefined;
    }
    throw error instanceof PtraceError
      ? new KybernateError('Internal', `process ${hostPid}: ${error.message}`, { cause: error })
      : error;
  } finally {
    for (const tid of seized) {
      await release(tid);
    }
  }
}

function threadsOf(hostPid: number): number[] {
  return numericEntries(`/proc/${hostPid}/task`).filter(
    (tid) => !['Z', 'X', undefined].includes(stateOf(hostPid, tid)),
  );
}

function stateOf(hostPid: number, tid: number): string | undefined {
  return /^State:\s*(\S)/m.exec(readProc(`/proc/${hostPid}/task/${tid}/status`) ?? '')?.[1];
}

function isAlive(hostPid: number): boolean {
  return threadsOf(hostPid).length > 0;
}

async function stopAll(hostPid: number, seized: Set<number>): Promise<void> {
  for (let round = 0; round < MAX_ROUNDS; round += 1) {
    const fresh = threadsOf(hostPid).filter((tid) => !seized.has(tid));
    if (fresh.length === 0) {
      return;
    }
    for (const tid of fresh) {
      if (seize(tid)) {
        seized.add(tid);
      }
    }
    for (const tid of fresh.filter((one) => seized.has(one))) {
      if (!(await stopped(tid))) {
        seized.delete(tid);
      }
    }
  }
  throw new KybernateError('Internal', `process ${hostPid} starts threads faster than they can be stopped`);
}

/** @returns false when the thread has ended */
function seize(tid: number): boolean {
  try {
    ptrace('SEIZE', PTRACE_SEIZE, tid, PTRACE_O_TRACESYSGOOD);
    ptrace('INTERRUPT', PTRACE_INTERRUPT, tid);
    return true;
  } catch (error) {
    if (error instanceof PtraceError && error.errno === 'ESRCH') {
      return false;
    }
    throw error;
  }
}

/**
 * Waits for the stop that was asked for. A signal that comes first is passed on: its own stop is not the one.
 * @returns false when the thread has ended
 */
async function stopped(tid: number): Promise<boolean> {
  const until = Date.now() + STOP_MS;
  for (;;) {
    const change = pollThread(tid);
    if (change === 'gone') {
      return false;
    }
    if (change !== undefined) {
      if (change.status >> 16 === PTRACE_EVENT_STOP) {
        return true;
      }
      ptrace('CONT', PTRACE_CONT, tid, signalOf(change.status));
    }
    if (Date.now() > until) {
      throw new KybernateError('Internal', `thread ${tid} did not stop within ${STOP_MS} ms: it waits in the kernel`);
    }
    await sleep(POLL_MS);
  }
}

/** To be delivered with the continuation; 0 for a stop of ptrace's own. */
function signalOf(status: number): number {
  const signal = (status >> 8) & 0xff;
  return status >> 16 !== 0 || signal === SYSCALL_STOP ? 0 : signal;
}

/** One that has not stopped in time gets a second chance; then only our end frees it, which the runner's is. */
async function release(tid: number): Promise<void> {
  const until = Date.now() + STOP_MS;
  for (let signal = 0; ;) {
    try {
      ptrace('DETACH', PTRACE_DETACH, tid, signal);
      return;
    } catch {
      // ESRCH: ended, or not in a stop yet.
      const change = pollThread(tid);
      if (change === 'gone' || Date.now() > until) {
        return;
      }
      signal = change === undefined ? signal : signalOf(change.status);
    }
    await sleep(POLL_MS);
  }
}

interface Chosen {
  readonly tid: number;
  readonly registers: BigUint64Array;
}

function bytesOf(registers: BigUint64Array): Uint8Array {
  return new Uint8Array(registers.buffer);
}

function registersOf(tid: number): BigUint64Array {
  const registers = new BigUint64Array(REGISTERS);
  ptraceReceive('GETREGS', PTRACE_GETREGS, tid, bytesOf(registers));
  return registers;
}

/** The kernel keeps the number of the interrupted call here; -1 outside of calls. */
function insideCall(registers: BigUint64Array): boolean {
  return BigInt.asIntN(64, registers[ORIG_RAX] ?? 0n) >= 0n;
}

function choose(tids: Iterable<number>): Chosen {
  const all = [...tids].map((tid) => ({ tid, registers: registersOf(tid) }));
  const chosen = all.find(({ registers }) => insideCall(registers)) ?? all[0];
  if (chosen === undefined) {
    throw new PtraceError('GETREGS', 0, 'ESRCH');
  }
  if (chosen.registers[CS] !== USER_CS_64) {
    throw new KybernateError('Internal', `thread ${chosen.tid} does not run 64 bit code`);
  }
  return chosen;
}

/** Synchronous from the first changed register to the last one put back. */
function injectIn<T>(hostPid: number, tids: ReadonlySet<number>, use: (inject: Inject) => T): T {
  const instruction = findSyscall(hostPid);
  const { tid, registers } = choose(tids);
  const mask = new Uint8Array(SIGSET_BYTES);
  ptraceReceive('GETSIGMASK', PTRACE_GETSIGMASK, tid, mask, SIGSET_BYTES);
  ptraceSend('SETSIGMASK', PTRACE_SETSIGMASK, tid, new Uint8Array(SIGSET_BYTES).fill(0xff), SIGSET_BYTES);
  let called = false;
  try {
    return use((call) => {
      called = true;
      return callOnce(tid, registers, instruction, call);
    });
  } finally {
    putBack(tid, registers, mask, called);
  }
}

function callOnce(tid: number, own: BigUint64Array, instruction: bigint, call: InjectedCall): bigint {
  const registers = BigUint64Array.from(own);
  const [number, ...parameters] = call;
  registers[RAX] = BigInt(number);
  // no call to restart
  registers[ORIG_RAX] = BigInt.asUintN(64, -1n);
  registers[RIP] = instruction;
  [RDI, RSI, RDX, R10, R8, R9].forEach((register, index) => {
    registers[register] = BigInt.asUintN(64, parameters[index] ?? 0n);
  });
  ptraceSend('SETREGS', PTRACE_SETREGS, tid, bytesOf(registers));
  // its entry, then its exit
  goTo(tid, PTRACE_SYSCALL, (status) => ((status >> 8) & 0xff) === SYSCALL_STOP);
  goTo(tid, PTRACE_SYSCALL, (status) => ((status >> 8) & 0xff) === SYSCALL_STOP);
  return BigInt.asIntN(64, registersOf(tid)[RAX] ?? 0n);
}

function putBack(tid: number, registers: BigUint64Array, mask: Uint8Array, called: boolean): void {
  try {
    if (called) {
      ptraceSend('SETREGS', PTRACE_SETREGS, tid, bytesOf(registers));
      // After the exit of a call the kernel would not look whether the interrupted one is to be restarted.
      ptrace('INTERRUPT', PTRACE_INTERRUPT, tid);
      goTo(tid, PTRACE_CONT, (status) => status >> 16 === PTRACE_EVENT_STOP);
    }
    ptraceSend('SETSIGMASK', PTRACE_SETSIGMASK, tid, mask, SIGSET_BYTES);
  } catch (error) {
    if (!(error instanceof PtraceError && error.errno === 'ESRCH')) {
      throw error;
    }
    // It was killed meanwhile: there is nothing to put back.
  }
}

/** Lets the thread run up to the stop that is meant; other stops on the way are passed on. Does not give way. */
function goTo(tid: number, request: number, isMeant: (status: number) => boolean): void {
  const begun = Date.now();
  ptrace('resume', request, tid);
  for (;;) {
    const change = pollThread(tid);
    if (change === 'gone') {
      throw new PtraceError('wait', tid, 'ESRCH');
    }
    if (change !== undefined) {
      if (isMeant(change.status)) {
        return;
      }
      ptrace('resume', request, tid, signalOf(change.status));
    }
    if (Date.now() - begun > CALL_MS) {
      throw new KybernateError('Internal', `a system call in thread ${tid} took longer than ${CALL_MS} ms`);
    }
    if (Date.now() - begun > SPIN_MS) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, POLL_MS);
    }
  }
}

/** Every process has the kernel's vdso, which falls back to real system calls. */
function findSyscall(hostPid: number): bigint {
  const vdso = readMaps(hostPid).find((mapping) => mapping.path === '[vdso]');
  const [start, end] = (vdso?.range ?? '').split('-').map((text) => BigInt(`0x${text === '' ? '0' : text}`));
  if (start === undefined || end === undefined) {
    throw new KybernateError('Internal', `process ${hostPid} has no vdso, from which system calls could be made`);
  }
  const code = Buffer.alloc(Number(end - start));
  const fd = openSync(`/proc/${hostPid}/mem`, 'r');
  try {
    const bytes = readSync(fd, code, 0, code.length, start);
    const offset = code.subarray(0, bytes).indexOf(SYSCALL_INSTRUCTION);
    if (offset < 0) {
      throw new KybernateError('Internal', `the vdso of process ${hostPid} has no syscall instruction`);
    }
    return start + BigInt(offset);
  } finally {
    closeSync(fd);
  }
}
