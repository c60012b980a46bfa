"""A threaded TCP server: every connection has a thread of its own, which numbers what it echoes.

A client sends lines and gets each back as `<token> <count> <line>`; a gap in the count, or another token, means that
the connection or the process is not the one it was. A ticker thread appends the time to /data/ticks, once a millisecond
at most, so that the longest gap between two ticks is the freeze as the workload sees it.
"""
import os
import socket
import sys
import threading
import time

TOKEN = os.urandom(8).hex()


def serve(connection):
    count = 0
    file = connection.makefile("rwb")
    for line in file:
        count += 1
        file.write(f"{TOKEN} {count} ".encode() + line)
        file.flush()
    connection.close()


def tick(path):
    with open(path, "a", buffering=1) as file:
        while True:
            file.write(f"{time.clock_gettime(time.CLOCK_MONOTONIC):.6f}\n")
            time.sleep(0.001)


port = int(sys.argv[1])
if len(sys.argv) > 2:
    threading.Thread(target=tick, args=(sys.argv[2],), daemon=True).start()
server = socket.create_server(("0.0.0.0", port), backlog=64)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
