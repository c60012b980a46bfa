"""Holds memory and tells the time once a millisecond, so that the longest gap is a freeze as the workload sees it.

usage: ticker.py <MiB of random pages>; times (CLOCK_MONOTONIC, seconds) go to /tmp/ticks, a line each.
"""
import sys
import time

from noise import noise

memory = bytearray(int(sys.argv[1]) << 20)
for start in range(0, len(memory), 1 << 20):
    memory[start : start + (1 << 20)] = noise(start >> 20)
with open("/tmp/ticks", "a", buffering=1) as file:
    while True:
        file.write(f"{time.clock_gettime(time.CLOCK_MONOTONIC):.6f}\n")
        time.sleep(0.001)
