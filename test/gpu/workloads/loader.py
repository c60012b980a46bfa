"""Trains from a DataLoader with two forked workers and pinned memory, made after CUDA was initialised.

usage: loader.py <steps> <seed> <log>
"""
import os
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch.utils.data import DataLoader, Dataset

steps, seed, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
BATCH = 48


class Samples(Dataset):
    def __len__(self):
        return steps * BATCH

    def __getitem__(self, index):
        return torch.randn(384, generator=torch.Generator().manual_seed(seed * 1_000_003 + index))


torch.use_deterministic_algorithms(True)
torch.manual_seed(seed)
model = torch.nn.Linear(384, 384).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loader = DataLoader(
    Samples(), batch_size=BATCH, shuffle=True, num_workers=2, pin_memory=True, multiprocessing_context="fork"
)
with open(log, "a", buffering=1) as file:
    for step, batch in enumerate(loader):
        batch = batch.cuda(non_blocking=True)
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        file.write(f"{step} {loss.item().hex()}\n")
        time.sleep(0.03)
    file.write("DONE\n")
while True:
    time.sleep(1)
