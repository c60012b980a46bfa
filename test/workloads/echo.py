"""An echo server with one event loop: `<token> <count> <line>` for every line of a connection.

usage: echo.py <port> [<MiB of random pages, to make a dump last>]
"""
import os
import selectors
import socket
import sys

from noise import noise

TOKEN = os.urandom(8).hex()
ballast = b"".join(noise(number) for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0))
counts = {}
selector = selectors.DefaultSelector()
server = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=64)
selector.register(server, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is server:
            connection, _ = server.accept()
            connection.setblocking(False)
            counts[connection] = 0
            selector.register(connection, selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(4096)
        if not data:
            selector.unregister(key.fileobj)
            key.fileobj.close()
            continue
        for line in data.decode().splitlines():
            counts[key.fileobj] += 1
            key.fileobj.sendall(f"{TOKEN} {counts[key.fileobj]} {line}\n".encode())
