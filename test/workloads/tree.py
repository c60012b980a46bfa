"""A process tree that uses what CRIU must bring back, checks itself all the time, and tells in /tmp/state.json.

Every check counts up only while the thing really works, so a reader sees each one move before and after a restore.
The token lives in memory alone: a process that was started afresh has another one.
usage: tree.py [<file>], where the file gets a line of a sequence for every round.
"""
import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time

from sequence import Sequence

libc = ctypes.CDLL(None, use_errno=True)
TOKEN = os.urandom(16).hex()
CHECKS = ["pipe", "socketpair", "unix", "eventfd", "timerfd", "signalfd", "inotify", "deleted", "linked", "lock", "shared", "devshm"]


def child(read_fd, pair, shared):
    """Echoes what comes through the pipe into the socket pair, plus one, and counts in shared memory."""
    while True:
        data = os.read(read_fd, 8)
        if len(data) < 8:
            sys.exit(1)
        number = struct.unpack("<q", data)[0]
        shared[0:8] = struct.pack("<q", number)
        pair.sendall(struct.pack("<q", number + 1))


def unix_server(path):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            while True:
                data = connection.recv(64)
                if not data:
                    os._exit(0)
                connection.sendall(data[::-1])
        connection.close()


def main():
    os.makedirs("/tmp", exist_ok=True)
    read_fd, write_fd = os.pipe()
    ours, theirs = socket.socketpair()
    shared = mmap.mmap(-1, 4096)
    if os.fork() == 0:
        os.close(write_fd)
        child(read_fd, theirs, shared)
    os.close(read_fd)
    if os.fork() == 0:
        unix_server("/tmp/unix.sock")
    while not os.path.exists("/tmp/unix.sock"):
        time.sleep(0.01)
    time.sleep(0.05)
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.connect("/tmp/unix.sock")

    event = os.eventfd(0, os.EFD_NONBLOCK)
    timer = libc.timerfd_create(1, 0o4000)
    interval = struct.pack("<qqqq", 0, 20_000_000, 0, 20_000_000)
    libc.timerfd_settime(timer, 0, interval, None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    mask = (ctypes.c_ulong * 16)()
    mask[0] = 1 << (signal.SIGUSR1 - 1)
    signals = libc.signalfd(-1, ctypes.byref(mask), 0o4000)
    inotify = libc.inotify_init1(0o4000)
    os.makedirs("/tmp/watched", exist_ok=True)
    libc.inotify_add_watch(inotify, b"/tmp/watched", 0x00000008)
    epoll = select.epoll()
    for fd in (event, timer, signals, inotify):
        epoll.register(fd, select.EPOLLIN)

    deleted = os.open("/tmp/deleted", os.O_RDWR | os.O_CREAT)
    os.write(deleted, TOKEN.encode())
    os.unlink("/tmp/deleted")
    # Open by a name that is gone while another link remains: CRIU has to make a link of its own.
    os.makedirs("/data", exist_ok=True)
    linked = os.open("/data/linked", os.O_RDWR | os.O_CREAT)
    os.write(linked, TOKEN.encode())
    os.link("/data/linked", "/data/linked-too")
    os.unlink("/data/linked")
    lock = os.open("/tmp/lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    devshm_fd = os.open("/dev/shm/tree", os.O_RDWR | os.O_CREAT)
    os.ftruncate(devshm_fd, 4096)
    devshm = mmap.mmap(devshm_fd, 4096)

    counts = dict.fromkeys(CHECKS, 0)
    sequence = 0
    told = Sequence(sys.argv[1]) if len(sys.argv) > 1 else None
    while True:
        sequence += 1
        if told is not None:
            told.tick()
        os.write(write_fd, struct.pack("<q", sequence))
        counts["pipe"] += 1
        if struct.unpack("<q", ours.recv(8, socket.MSG_WAITALL))[0] == sequence + 1:
            counts["socketpair"] += 1
        if struct.unpack("<q", shared[0:8])[0] == sequence:
            counts["shared"] += 1
        unix.sendall(b"abc")
        if unix.recv(64) == b"cba":
            counts["unix"] += 1
        os.eventfd_write(event, 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        with open("/tmp/watched/file", "w") as file:
            file.write(str(sequence))
        time.sleep(0.02)
        for fd, _ in epoll.poll(0):
            data = os.read(fd, 4096)
            name = {event: "eventfd", timer: "timerfd", signals: "signalfd", inotify: "inotify"}[fd]
            counts[name] += 1 if data else 0
        counts["deleted"] += 1 if os.pread(deleted, 64, 0) == TOKEN.encode() else 0
        counts["linked"] += 1 if os.pread(linked, 64, 0) == TOKEN.encode() else 0
        second = os.open("/tmp/lock", os.O_RDWR)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            counts["lock"] += 1
        os.close(second)
        devshm[0:8] = struct.pack("<q", sequence)
        if struct.unpack("<q", os.pread(devshm_fd, 8, 0))[0] == sequence:
            counts["devshm"] += 1
        with open("/tmp/state.new", "w") as file:
            json.dump({"token": TOKEN, "sequence": sequence, "counts": counts, "pid": os.getpid()}, file)
        os.rename("/tmp/state.new", "/tmp/state.json")


main()
