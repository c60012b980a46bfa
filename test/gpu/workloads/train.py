"""Trains a small network in a way that gives the same bits in every run, and writes down the bits of every loss.

usage: train.py <steps> <seed> <log> [<GiB of ballast that is checked in every step>] [fork]
A line for each step in <log>, `DONE <digest of the parameters>` at the end; then it waits. `fork` leaves a child that was
forked after CUDA was initialised.
"""
import hashlib
import os
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import nn

steps, seed, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
gib = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0

torch.use_deterministic_algorithms(True)
torch.manual_seed(seed)
device = torch.device("cuda")
model = nn.Sequential(nn.Linear(768, 1536), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1536, 768)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
ballast = torch.arange(int(gib * 2**30) // 8, device=device, dtype=torch.int64)
ballast_sum = int(ballast.sum().item())
torch.cuda.synchronize()

if "fork" in sys.argv and os.fork() == 0:
    while True:
        time.sleep(1)

with open(log, "a", buffering=1) as file:
    for step in range(steps):
        batch = torch.randn(192, 768, device=device)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = (model(batch).float() - batch.flip(1)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        intact = int(ballast.sum().item()) == ballast_sum
        file.write(f"{step} {loss.item().hex()} {intact}\n")
        time.sleep(0.02)
    digest = hashlib.blake2b(digest_size=16)
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    file.write(f"DONE {digest.hexdigest()}\n")
while True:
    time.sleep(1)
