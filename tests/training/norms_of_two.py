"""Trains a small convolutional network on half of each batch a process: ``torchrun norms_of_two.py OUT``.

Each process saves its state: run alone or in two by test_distributed.py.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from lib.training import distributed
from models.norm import BatchNorm2d


def main(out: str, foreign: bool) -> None:
    distributed.start(torch.device("cpu"))
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if foreign else BatchNorm2d(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 1, 1)).double()
    model = distributed.parallel(net)
    before = []  # the running mean with which each forward begins
    norm.register_forward_pre_hook(lambda module, _inputs: before.append(module.running_mean.clone()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rank, share = distributed.rank(), 4 // distributed.world_size()
    for step in range(3):
        images = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(images[rank * share : (rank + 1) * share]).square().mean().backward()
        optimizer.step()
    state = {name: value.clone() for name, value in net.state_dict().items()} | {"before": before[-1]}
    torch.save(state, Path(out) / f"{distributed.world_size()}-{rank}.pt")
    distributed.finish()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "foreign")
