"""Holds memory with a known content, keeps writing to a part of it, and tells in /tmp/state.json.

usage: memory.py <MiB of random pages> <MiB of zero pages> [<rounds between two checksums, 50 otherwise>]
`checksum` covers the pages that never change. To compute it takes a second of a processor for each GiB.
"""
import hashlib
import json
import mmap
import os
import sys
import time

from noise import noise

TOKEN = os.urandom(16).hex()
random_bytes = int(sys.argv[1]) << 20
zero_bytes = int(sys.argv[2]) << 20
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 50
memory = mmap.mmap(-1, random_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for start in range(0, random_bytes, 1 << 20):
    memory[start : start + (1 << 20)] = noise(start >> 20)
zeros = mmap.mmap(-1, max(zero_bytes, 4096), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for start in range(0, zero_bytes, 4096):
    zeros[start] = 0
sequence = 0
while True:
    sequence += 1
    checksum = hashlib.blake2b(memory).hexdigest() if sequence % rounds == 1 else checksum
    with open("/tmp/state.new", "w") as file:
        json.dump({"token": TOKEN, "sequence": sequence, "checksum": checksum}, file)
    os.rename("/tmp/state.new", "/tmp/state.json")
    time.sleep(0.01)
