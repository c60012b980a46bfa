/*
 * Numbers of the Linux ABI that we call by. x86-64 and arm64 share these system call numbers (all are newer than the
 * generic table). Sources: include/uapi/asm-generic/unistd.h, linux/tcp.h, asm-generic/socket.h, sys/file.h.
 */
export const SYS_PIDFD_OPEN = 434;
export const SYS_PIDFD_GETFD = 438;

/** In the table of each architecture. Sources: arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h. */
export const SYS_BPF = process.arch === 'arm64' ? 280 : 321;
/** Commands and a flag of bpf(2). Source: include/uapi/linux/bpf.h. */
export const BPF = { progAttach: 8, progGetFdById: 13, progQuery: 16, allowMulti: 2 } as const;
/**
 * Where on a cgroup programs deny something: ingress and egress, sock_create, device, bind, connect, post_bind and sendmsg of
 * IPv4 and IPv6, sysctl, recvmsg of both, getsockopt, setsockopt. Source: enum bpf_attach_type.
 */
export const CGROUP_ATTACH_TYPES = [0, 1, 2, 6, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22] as const;

export const LOCK_EX = 2;
export const LOCK_NB = 4;

export const SOL_SOCKET = 1;
export const SO_TYPE = 3;
export const SO_PEERCRED = 17;
export const SO_PROTOCOL = 38;
export const SO_DOMAIN = 39;

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const AF_PACKET = 17;

export const SOCK_RAW = 3;
export const SOCK_SEQPACKET = 5;
export const SOCK_CLOEXEC = 0o2000000;
export const SCM_RIGHTS = 1;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const POLLIN = 1;

export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_SCTP = 132;
export const IPPROTO_UDPLITE = 136;
export const IPPROTO_MPTCP = 262;
export const TCP_REPAIR = 19;
/** Leaves repair mode and sends a window probe, so that the peer hears of us: what CRIU does after a dump. */
export const TCP_REPAIR_OFF = 0;

/** lseek's whence (unistd.h, with _GNU_SOURCE). */
export const SEEK = { data: 3, hole: 4 } as const;

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  EACCES: 13,
  EINVAL: 22,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  ENODATA: 61,
  ENOTSOCK: 88,
  ENOPROTOOPT: 92,
  EOPNOTSUPP: 95,
  ECONNRESET: 104,
} as const;
