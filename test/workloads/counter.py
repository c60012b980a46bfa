"""Counts every 20 ms into a sequence file. usage: counter.py <file> [<MiB of random pages, to make a dump last>]"""
import sys
import time

from noise import noise
from sequence import Sequence

ballast = [noise(number) for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0)]
sequence = Sequence(sys.argv[1])
while True:
    sequence.tick()
    time.sleep(0.02)
