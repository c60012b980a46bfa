"""A threaded TCP server: every connection has a thread of its own, which numbers what it echoes.

A client sends lines and gets each back as `<token> <count> <line>`; a gap in the count, or another token, means that
the connection or the process is not the one it was.

usage: server.py <port> [<MiB of random pages, to make a dump last>]
"""
import os
import socket
import sys
import threading

from noise import noise

TOKEN = os.urandom(8).hex()


def serve(connection):
    count = 0
    file = connection.makefile("rwb")
    for line in file:
        count += 1
        file.write(f"{TOKEN} {count} ".encode() + line)
        file.flush()
    connection.close()


port = int(sys.argv[1])
ballast = b"".join(noise(number) for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0))
server = socket.create_server(("0.0.0.0", port), backlog=64)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
