"""Pretends to be a CUDA process, for the fake driver in native/fake (fake-gpu.h says how), and ticks.

usage: fake-gpu.py <id> --devices <uuid,uuid> [--vram <bytes>] [--nodes <path,path>] [--fork] [--fill] [--with-parent]
                   [--sequence <file>]
The id, the devices and the VRAM on each of them may come from FAKE_CUDA_PROCESS, FAKE_CUDA_DEVICES and FAKE_CUDA_VRAM.
Tokens: `memory` in memory, `file` in /tmp/token-<id>; that of the VRAM lies with the driver. /tmp/state-<id>.json tells
both, a counter, and what became of the device files. --nodes: keeps these device files open and mapped, closes them when
the driver saves it and opens them again when it restores it. --fork: a child inherits them and keeps them for ever.
--fill: has room for its VRAM in its memory, which the driver then fills when it saves. --sequence: a line a round there.
"""
import argparse
import ctypes
import json
import mmap
import os
import struct
import time

ADDRESS = 0x6B7962000000
PAGE = 4096
# struct area of fake-gpu.h: offset of each field
NS_PID, BYTES, WANTED, HOLDS, USES_NODES, ID, DEVICES, NODES = 8, 16, 32, 36, 40, 48, 128, 1152

parser = argparse.ArgumentParser()
parser.add_argument("id", nargs="?", default=os.environ.get("FAKE_CUDA_PROCESS", "gpu"))
parser.add_argument("--devices", default=os.environ.get("FAKE_CUDA_DEVICES", ""))
parser.add_argument("--vram", type=int, default=int(os.environ.get("FAKE_CUDA_VRAM", "0")))
parser.add_argument("--nodes", default="")
parser.add_argument("--fork", action="store_true")
parser.add_argument("--fill", action="store_true")
parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one has ended")
parser.add_argument("--sequence", default="")
args = parser.parse_args()


def make_area():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    size = PAGE + (args.vram if args.fill else 0)
    # private, anonymous, no reserve, at this address or not at all
    flags = 0x02 | 0x20 | 0x4000 | 0x100000
    if libc.mmap(ADDRESS, size, 3, flags, -1, 0) != ADDRESS:
        raise OSError(ctypes.get_errno(), "mmap")
    area = memoryview((ctypes.c_ubyte * PAGE).from_address(ADDRESS)).cast("B")
    struct.pack_into("<IIQQIII", area, NS_PID, os.getpid(), 0, size, args.vram, 0, 0, 1 if args.nodes else 0)
    for offset, text in ((ID, args.id), (DEVICES, args.devices), (NODES, args.nodes)):
        area[offset : offset + len(text)] = text.encode()
    return area


def word(offset):
    return struct.unpack_from("<I", area, offset)[0]


def text(offset, size):
    return bytes(area[offset : offset + size]).split(b"\0")[0].decode()


files = []


def open_nodes():
    """Device files open, and the last one mapped, as CUDA has them."""
    for path in text(NODES, 368).split(","):
        fd = os.open(path, os.O_RDWR)
        files.append((fd, mmap.mmap(fd, PAGE, flags=mmap.MAP_PRIVATE) if path[-1].isdigit() else None))


def close_nodes():
    for fd, mapping in files:
        if mapping is not None:
            mapping.close()
        os.close(fd)
    files.clear()


def follow_the_driver():
    wanted, holds = word(WANTED), word(HOLDS)
    if wanted == holds or (wanted == 1 and holds == 2):
        return "as it was"
    try:
        open_nodes() if wanted else close_nodes()
    except OSError as error:
        close_nodes()
        struct.pack_into("<I", area, HOLDS, 2)
        return f"{error.filename}: {error.strerror}"
    struct.pack_into("<I", area, HOLDS, wanted)
    return "open" if wanted else "closed"


TOKEN = os.urandom(16).hex()
with open(f"/tmp/token-{args.id}", "w") as file:
    file.write(os.urandom(16).hex())
area = make_area()
nodes = "none"
if args.nodes:
    open_nodes()
    struct.pack_into("<II", area, WANTED, 1, 1)
    nodes = "open"
child = 0
if args.fork:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)
# Last: now it is a CUDA process.
area[0:8] = b"FAKECUDA"
count = 0
starter = os.getppid()
sequence = None
if args.sequence:
    # Not at the top: on the host an import leaves byte code beside the sources.
    from sequence import Sequence

    sequence = Sequence(args.sequence)
while not args.with_parent or os.getppid() == starter:
    count += 1
    if sequence is not None:
        sequence.tick()
    if args.nodes:
        change = follow_the_driver()
        nodes = nodes if change == "as it was" else change
    with open(f"/tmp/token-{args.id}") as file:
        held = file.read()
    state = {"pid": os.getpid(), "child": child, "count": count, "memory": TOKEN, "file": held, "nodes": nodes}
    with open(f"/tmp/state-{args.id}.new", "w") as file:
        json.dump(state, file)
    os.rename(f"/tmp/state-{args.id}.new", f"/tmp/state-{args.id}.json")
    time.sleep(0.02)
