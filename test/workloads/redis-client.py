"""A client of a redis that never stops asking: sets 200 keys, then counts there every 20 ms and reads the keys back.

usage: redis-client.py <host> <port> <file>; the file gets `<number> <time> <token>` for every answer, where the token is
a key of the server, `# connected <time>` for every connection and `# wrong <key> <time>` for a key that has changed.
SIGUSR1: the server was restored, the connection is of no use any more.
"""
import os
import signal
import socket
import sys
import time

host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
KEYS = 200
token = os.urandom(8).hex()
out = open(path, "a", buffering=1)


def command(*words):
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def answer(stream):
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection has ended")
    if line[:1] == b"$" and int(line[1:]) >= 0:
        return stream.read(int(line[1:]) + 2)[:-2].decode()
    return line[1:-2].decode()


def talk(connection, is_first):
    stream = connection.makefile("rb")

    def ask(*words):
        connection.sendall(command(*words))
        return answer(stream)

    if is_first:
        ask("SET", "token", token)
        for key in range(KEYS):
            ask("SET", f"key:{key}", f"{token}:{key}")
    while True:
        number = int(ask("INCR", "sequence"))
        key = number % KEYS
        if ask("GET", f"key:{key}") != f"{token}:{key}":
            out.write(f"# wrong {key} {time.time():.4f}\n")
        out.write(f"{number} {time.time():.4f} {ask('GET', 'token')}\n")
        time.sleep(0.02)


talking = False


def leave(_signal, _frame):
    if talking:
        raise ConnectionError("told to connect again")


signal.signal(signal.SIGUSR1, leave)
first = True
starter = os.getppid()
while os.getppid() == starter:
    try:
        with socket.create_connection((host, port), timeout=20) as connection:
            out.write(f"# connected {time.time():.4f}\n")
            was_first, first = first, False
            talking = True
            talk(connection, was_first)
    except OSError:
        talking = False
        time.sleep(0.05)
