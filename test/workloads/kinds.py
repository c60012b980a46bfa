"""A workload of one kind for the support matrix, which checks itself and tells in <directory>/state.json.

The token lives in memory alone, and the sequence moves only while the thing that the kind is about works.
usage: kinds.py counter|tcp|threads|tty|fds|deleted|unix [<directory>, /state otherwise]
"""
import json
import os
import socket
import sys
import threading
import time

TOKEN = os.urandom(16).hex()
DIR = sys.argv[2] if len(sys.argv) > 2 else "/state"
os.makedirs(DIR, exist_ok=True)


def counter():
    while True:
        yield True


def echo_server(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection):
    try:
        while data := connection.recv(64):
            connection.sendall(data)
    except OSError:
        pass


def tcp():
    """A client of an own server, which connects again when its connection is closed."""
    listener = socket.create_server(("127.0.0.1", 7777), backlog=16)
    threading.Thread(target=echo_server, args=(listener,), daemon=True).start()
    connection = None
    while True:
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", 7777), timeout=5)
            connection.sendall(b"ping")
            yield connection.recv(64) == b"ping"
        except OSError:
            connection = None
            time.sleep(0.05)


def threads():
    counts = [0] * 32

    def count(number):
        while True:
            counts[number] += 1
            time.sleep(0.01)

    for number in range(len(counts)):
        threading.Thread(target=count, args=(number,), daemon=True).start()
    while True:
        before = list(counts)
        time.sleep(0.05)
        yield all(now > then for now, then in zip(counts, before))


def tty():
    while True:
        # Somebody may read it, or nobody: a line now and then must not block for ever.
        os.write(1, b".")
        yield os.isatty(0) and os.isatty(1) and os.ttyname(0) is not None


def fds():
    """Open files with a position each, in their own layer and in memory."""
    open_files = []
    for number in range(200):
        fd = os.open(f"{DIR}/fd-{number}", os.O_RDWR | os.O_CREAT)
        os.write(fd, f"{TOKEN}{number}".encode())
        os.lseek(fd, number % 7, os.SEEK_SET)
        pipe = os.pipe()
        os.write(pipe[1], bytes([number]))
        open_files.append((fd, *pipe))
    while True:
        good = True
        for number, (fd, read, write) in enumerate(open_files):
            good = good and os.lseek(fd, 0, os.SEEK_CUR) == number % 7
            good = good and os.pread(fd, 64, 0) == f"{TOKEN}{number}".encode()
            byte = os.read(read, 1)
            os.write(write, byte)
            good = good and byte == bytes([number])
        yield good


def deleted():
    gone = os.open(f"{DIR}/gone", os.O_RDWR | os.O_CREAT)
    os.write(gone, TOKEN.encode())
    os.unlink(f"{DIR}/gone")
    linked = os.open(f"{DIR}/linked", os.O_RDWR | os.O_CREAT)
    os.write(linked, TOKEN.encode())
    os.link(f"{DIR}/linked", f"{DIR}/linked-too")
    os.unlink(f"{DIR}/linked")
    while True:
        yield os.pread(gone, 64, 0) == TOKEN.encode() and os.pread(linked, 64, 0) == TOKEN.encode()


def unix():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{DIR}/listener.sock")
    listener.listen(16)
    threading.Thread(target=echo_server, args=(listener,), daemon=True).start()
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{DIR}/listener.sock")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        client.sendall(b"ping")
        ours.send(b"pong")
        again = socket.socket(socket.AF_UNIX)
        again.connect(f"{DIR}/listener.sock")
        again.sendall(b"new")
        good = client.recv(64) == b"ping" and theirs.recv(64) == b"pong" and again.recv(64) == b"new"
        again.close()
        yield good


sequence = 0
for good in {"counter": counter, "tcp": tcp, "threads": threads, "tty": tty, "fds": fds, "deleted": deleted, "unix": unix}[sys.argv[1]]():
    sequence += 1 if good else 0
    with open(f"{DIR}/state.new", "w") as out:
        json.dump({"token": TOKEN, "sequence": sequence}, out)
    os.rename(f"{DIR}/state.new", f"{DIR}/state.json")
    time.sleep(0.02)
