"""Bytes that do not shrink, at the price of a copy: one random MiB, turned by another distance for each number."""
import os

MIB = 1 << 20
BLOCK = os.urandom(MIB)
# Odd beside the size of a page: no two of 4096 MiB in a row have a page in common.
STEP = 4099


def noise(number):
    """The MiB of that number; the same one in this process whenever it is asked for."""
    turn = number * STEP % MIB
    return BLOCK[turn:] + BLOCK[:turn]
