"""Two processes that talk over loopback connections of their own: the count of rounds goes to /tmp/state.json.

Listeners are on ports that the kernel chose, without SO_REUSEADDR, and have closed connections of their own: what a job
whose ranks found each other leaves behind (TIME_WAIT).
"""
import json
import os
import socket
import time

listeners = []
for _ in range(4):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    listeners.append(listener)
ports = [listener.getsockname()[1] for listener in listeners]

if os.fork() == 0:
    connections = [socket.create_connection(("127.0.0.1", port)) for port in ports for _ in range(4)]
    passing = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    for connection in passing:
        connection.recv(1)
        connection.close()
    while True:
        for connection in connections:
            connection.sendall(connection.recv(64))

accepted = [listener.accept()[0] for listener in listeners for _ in range(4)]
for listener in listeners:
    # The side that closes first keeps the port: this one.
    listener.accept()[0].close()
rounds = 0
while True:
    for connection in accepted:
        connection.sendall(str(rounds).encode())
        assert connection.recv(64).decode() == str(rounds)
    rounds += 1
    with open("/tmp/state.new", "w") as out:
        json.dump({"rounds": rounds, "ports": ports}, out)
    os.rename("/tmp/state.new", "/tmp/state.json")
    time.sleep(0.005)
