"""Trains a small network on half of each batch a process: ``torchrun norms_of_two.py OUT ours|foreign|pillars``.

ours, foreign: convolutions with this project's or with torch's normalisation. pillars: the pillar network.
Each process saves its state: run alone or in two by test_distributed.py.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from lib.ops import VoxelGrid, voxelise
from lib.training import distributed
from models.lidar.pointpillars import PillarNetwork
from models.norm import BatchNorm2d

GRID = VoxelGrid((0, 0, 0), (1, 1, 4), (8, 8, 1))


def main(out: str, kind: str) -> None:
    distributed.start(torch.device("cpu"))
    torch.manual_seed(0)
    if kind == "pillars":
        net = PillarNetwork(4, GRID, momentum=0.1).double()
        norm = net.norm
    else:
        norm = nn.BatchNorm2d(4) if kind == "foreign" else BatchNorm2d(4)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 1, 1)).double()
    model = distributed.parallel(net)
    before = []  # the running mean with which each forward begins
    net.register_forward_pre_hook(lambda module, _inputs: before.append(norm.running_mean.clone()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rank, processes = distributed.rank(), distributed.world_size()
    own = slice(rank * 4 // processes, (rank + 1) * 4 // processes)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        if kind == "pillars":  # the last clouds have more points; a mean over processes is to be a sum
            clouds = [8 * torch.rand(10 + 20 * i, 4, generator=generator, dtype=torch.float64) for i in range(4)]
            loss = model(voxelise(clouds[own], GRID, 5, 100)).square().sum() * processes / 100
        else:
            loss = model(torch.randn(4, 3, 6, 5, generator=generator, dtype=torch.float64)[own]).square().mean()
        loss.backward()
        optimizer.step()
    state = {name: value.clone() for name, value in net.state_dict().items()} | {"before": before[-1]}
    torch.save(state, Path(out) / f"{processes}-{rank}.pt")
    distributed.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
