"""Counts every 20 ms into a sequence file. usage: counter.py <file> [<MiB of random pages, to make a dump last>]"""
import os
import sys
import time

from sequence import Sequence

ballast = [os.urandom(1 << 20) for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0)]
sequence = Sequence(sys.argv[1])
while True:
    sequence.tick()
    time.sleep(0.02)
