"""One process of the host (and perhaps a child) that uses what its first argument names, and tells how it goes.

The state file has a token that lives in memory alone and a count that grows only while the thing really works.
usage: process.py <kind> <state file> [<argument>]
"""
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

# What the test itself was started with is none of it.
os.closerange(3, 1024)
kind, state_file = sys.argv[1:3]
argument = sys.argv[3] if len(sys.argv) > 3 else ""
token = os.urandom(8).hex()
libc = ctypes.CDLL(None, use_errno=True)


def tell(count):
    with open(state_file + ".tmp", "w") as file:
        json.dump({"token": token, "count": count, "pid": os.getpid()}, file)
    os.rename(state_file + ".tmp", state_file)


def counter():
    return lambda: True


def threads():
    counts = [0] * 8

    def work(index):
        while True:
            counts[index] += 1
            time.sleep(0.005)

    for index in range(8):
        threading.Thread(target=work, args=(index,), daemon=True).start()
    before = list(counts)

    def step():
        nonlocal before
        now = list(counts)
        moved = all(a < b for a, b in zip(before, now))
        if moved:
            before = now
        return moved

    return step


def fds():
    held = [open(__file__) for _ in range(400)]
    for file in held:
        file.seek(7)
    event = libc.eventfd(0, 0)
    timer = libc.timerfd_create(1, 0)
    libc.timerfd_settime(timer, 0, struct.pack("qqqq", 0, 5_000_000, 0, 5_000_000), None)
    watch = libc.inotify_init1(0)
    libc.inotify_add_watch(watch, os.path.dirname(state_file).encode(), 2)
    read_end, write_end = os.pipe()

    def step():
        os.write(event, struct.pack("Q", 3))
        os.write(write_end, b"x")
        ticked = len(os.read(timer, 8)) == 8
        return ticked and os.read(event, 8) == struct.pack("Q", 3) and os.read(read_end, 1) == b"x" and all(
            file.tell() == 7 for file in held
        )

    return step


def deleted():
    path = state_file + ".deleted"
    file = open(path, "w+b")
    file.write(token.encode() + b"\0" * 2_000_000)
    file.flush()
    os.unlink(path)

    def step():
        file.seek(0)
        return file.read(16).decode() == token

    return step


def unix():
    near, far = socket.socketpair()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(state_file + ".sock")
    server.listen()
    if os.fork() == 0:
        near.close()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(state_file + ".sock")
        while True:
            data = far.recv(8)
            if not data:
                os._exit(0)
            client.sendall(data)
    far.close()
    echo, _ = server.accept()
    sent = 0

    def step():
        nonlocal sent
        sent += 1
        near.sendall(struct.pack("q", sent))
        return echo.recv(8) == struct.pack("q", sent)

    return step


def tcp():
    client = socket.create_connection(("127.0.0.1", int(argument)))
    client.settimeout(20)
    sent = 0

    def step():
        nonlocal sent
        sent += 1
        client.sendall(struct.pack("q", sent))
        return client.recv(8, socket.MSG_WAITALL) == struct.pack("q", sent)

    return step


def output():
    sent = 0

    def step():
        nonlocal sent
        sent += 1
        os.write(1, b"%s %d\n" % (token.encode(), sent))
        return True

    return step


def linked():
    path = state_file + ".linked"
    file = open(path, "w")
    os.link(path, path + ".other")
    os.unlink(path)
    return lambda: not file.closed


def memory():
    block = bytearray(os.urandom(1 << 20) * int(argument))
    return lambda: len(block) > 0


def outside():
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(argument)
    return lambda: client.fileno() > 0


def everything():
    """One of each that a checkpoint has to know, or to refuse."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    deleted_file = open(state_file + ".deleted", "w+")
    os.unlink(deleted_file.name)
    locked = open(__file__)
    fcntl.flock(locked, fcntl.LOCK_SH)
    watch = libc.inotify_init1(0)
    libc.inotify_add_watch(watch, os.path.dirname(state_file).encode(), 2)
    held = [listener, client, accepted, udp, deleted_file, locked, socket.socketpair(), os.pipe(), select.epoll()]
    held += [libc.eventfd(0, 0), libc.timerfd_create(1, 0), libc.signalfd(-1, bytes(128), 0), os.memfd_create("m")]
    held += [libc.syscall(425, 2, bytes(120)), os.openpty(), os.open(argument, os.O_RDWR)]
    for prepare in (
        lambda: os._exit(0),
        lambda: libc.ptrace(0, 0, 0, 0),
        lambda: os.kill(os.getpid(), signal.SIGSTOP),
        lambda: (libc.prctl(38, 1, 0, 0, 0), libc.prctl(22, 2, ctypes.byref(allow_all()))),
    ):
        if os.fork() == 0:
            prepare()
            while True:
                time.sleep(60)
    return lambda: len(held) > 0


def allow_all():
    """struct sock_fprog of one instruction: return SECCOMP_RET_ALLOW."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    return Program(1, struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))


step = globals()[kind]()
count = 0
while True:
    if step():
        count += 1
        tell(count)
    time.sleep(0.02)
