"""Trains a small network in float64 for a few steps and saves it: ``python train_in_float64.py DATA STEPS OUT``.

Run alone or under torchrun by test_distributed.py: in float64 the two must agree to far less than any real mistake.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from lib.datasets.scene_flow.pairs import collate
from lib.losses.distill import parse_distill
from lib.tasks.scene_flow import open_flow_pairs
from lib.training import distributed
from lib.training.engine import Trainer, seed_everything
from lib.training.optim import Recipe
from lib.training.run_folder import RunFolder
from models import build_model
from tests.runs import SCENE_FLOW, distiller, setting_for


def collate_float64(pairs):
    batch = collate(pairs)
    return batch._replace(xyz1=batch.xyz1.double(), xyz2=batch.xyz2.double(), flow=batch.flow.double())


def build_peer(_name):
    return build_model("student", pyramid=(8, 8, 8, 8, 8), predictor=(16, 16, 16, 8))


def main(data: str, steps: int, out: str) -> None:
    device = torch.device("cpu")
    task = replace(SCENE_FLOW, collate=collate_float64, headline=("EPE3D",))
    distributed.start(device)
    seed_everything(0, device)
    net = build_model("student", pyramid=(8, 8, 16, 16, 16)).double()
    teacher = build_model("teacher", pyramid=(8, 16, 16, 16, 16)).double().eval()
    setting = setting_for(net, teacher, 4 // distributed.world_size(), build_peer)
    text = "output:0.3,multiscale,self,online+target=general"  # all of them means over the batch
    method = parse_distill(text).build(setting).double()
    pairs = open_flow_pairs("ft3d", "train", Path(data), "full", None, 128, augment="on")
    recipe = Recipe(
        steps=steps, batch_size=4, lr=1e-3, lr_step=80, lr_gamma=0.5, lr_min=1e-5, weight_decay=1e-4, seed=0
    )
    Path(out).mkdir(exist_ok=True)
    learns = distiller(method, teacher)
    held_out = collate_float64([pairs[0, i] for i in range(2)])
    trainer = Trainer(
        task,
        net,
        learns.step,
        pairs,
        lambda net, interrupted: {"EPE3D": 1.0},
        recipe,
        RunFolder(Path(out)),
        device,
        {},
        method,
        lambda net: learns.refresh(net, held_out),
    )
    trainer.run()
    distributed.finish()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
