/*
 * Numbers of Linux on x86-64 alone: registers and system calls differ everywhere else. Sources: linux/ptrace.h,
 * asm/unistd_64.h, sys/user.h (struct user_regs_struct), linux/errno.h of kernel 6.1.
 */
export const PTRACE_CONT = 7;
export const PTRACE_GETREGS = 12;
export const PTRACE_SETREGS = 13;
export const PTRACE_DETACH = 17;
export const PTRACE_SYSCALL = 24;
export const PTRACE_SEIZE = 0x4206;
export const PTRACE_INTERRUPT = 0x4207;
export const PTRACE_GETSIGMASK = 0x420a;
export const PTRACE_SETSIGMASK = 0x420b;

/** Stops at a system call show as SIGTRAP | 0x80. */
export const PTRACE_O_TRACESYSGOOD = 1;
/** In the upper half of a wait status: a stop by PTRACE_INTERRUPT, or by a signal that stops the whole process. */
export const PTRACE_EVENT_STOP = 128;

export const WNOHANG = 1;
/** waits for threads that are no children, too */
export const WALL = 0x40000000;

const SIGTRAP = 5;
export const SYSCALL_STOP = SIGTRAP | 0x80;

/** Size of the kernel's signal set, as PTRACE_GETSIGMASK wants it. */
export const SIGSET_BYTES = 8;

/** 27 registers of 8 bytes; the index of each that is used here. */
export const REGISTERS = 27;
export const R10 = 7;
export const R9 = 8;
export const R8 = 9;
export const RAX = 10;
export const RDX = 12;
export const RSI = 13;
export const RDI = 14;
export const ORIG_RAX = 15;
export const RIP = 16;
export const CS = 17;
/** code segment of 64 bit programs */
export const USER_CS_64 = 0x33n;

export const SYS_CLOSE = 3;
export const SYS_MMAP = 9;

export const PROT_NONE = 0;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;

/** `syscall` */
export const SYSCALL_INSTRUCTION: Uint8Array = Uint8Array.of(0x0f, 0x05);
