"""Two ranks on two GPUs that sum a tensor by NCCL in every step and check the sum; rank 0 tells in /tmp/state.json.

usage: ddp.py [single]
With `single`: one process that uses both GPUs and copies between them through host memory.
Run it with NCCL_P2P_DISABLE=1 (what NCCL maps between GPUs cannot be brought back by the driver) and, since the rendezvous
would use io_uring otherwise, with UV_USE_IO_URING=0 and USE_LIBUV=0.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def tell(step, bad):
    with open("/tmp/state.new", "w") as file:
        json.dump({"tick": step, "bad": bad}, file)
    os.rename("/tmp/state.new", "/tmp/state.json")


def rank_main(rank):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29731", rank=rank, world_size=2)
    values = torch.empty(1 << 20, device="cuda")
    step = bad = 0
    while True:
        step += 1
        values.fill_(step * (rank + 1))
        dist.all_reduce(values)
        bad += int((values != 3 * step).sum().item())
        if rank == 0:
            tell(step, bad)
        time.sleep(0.02)


def single_main():
    first = torch.arange(1 << 24, device="cuda:0")
    second = torch.arange(1 << 24, device="cuda:1")
    step = bad = 0
    while True:
        step += 1
        bad += int((first.cpu().to("cuda:1") != second).sum().item())
        tell(step, bad)
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1:] == ["single"]:
        single_main()
    mp.spawn(rank_main, nprocs=2)
