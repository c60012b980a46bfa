"""Holds GPU memory by the driver alone (libcuda.so.1 as the loader finds it), and checks all of it in each tick.

usage: driver-api.py <MiB>
/tmp/state.json is like that of vram.cu: tick, bad (wrong bytes so far), and a token in GPU memory, memory and a file.
"""
import ctypes
import json
import os
import sys
import time

SIZE = int(sys.argv[1]) << 20


def fail(reason):
    # Stays: a container that has ended tells nobody why.
    report({"failed": reason})
    time.sleep(600)
    sys.exit(1)


def call(name, *args):
    result = getattr(cuda, name)(*args)
    if result != 0:
        fail(f"{name} returned {result}")


def report(state):
    with open("/tmp/state.new", "w") as out:
        json.dump({"tick": 0, "bad": 0, "vram": "", "cpu": "", "file": "", "path": ""} | state, out)
    os.rename("/tmp/state.new", "/tmp/state.json")


try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    fail(str(error))
token = os.urandom(16).hex()
with open("/tmp/token", "w") as out:
    out.write(token)
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(SIZE))
content = (token.encode() * (SIZE // 32 + 1))[:SIZE]
call("cuMemcpyHtoD_v2", memory, ctypes.c_char_p(content), ctypes.c_size_t(SIZE))

room = ctypes.create_string_buffer(SIZE)
tick = bad = 0
while True:
    call("cuMemcpyDtoH_v2", room, memory, ctypes.c_size_t(SIZE))
    bad += 0 if room.raw == content else 1
    tick += 1
    with open("/tmp/token") as source:
        in_file = source.read()
    report({"tick": tick, "bad": bad, "vram": room.raw[:32].decode(), "cpu": token, "file": in_file, "path": token})
    time.sleep(0.05)
