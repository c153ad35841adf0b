#!/usr/bin/env python
"""Trains a teacher against ground truth."""

import argparse
from pathlib import Path

from lib.cli import Parser, add_data_flags, add_machine_flags, add_training_flags, parse_training, run_script
from lib.losses.distill import Selection
from lib.tasks.scene_flow import TASKS
from lib.training.checkpoint import CHECKPOINTS
from lib.training.run import display_path, run_training

EPILOG = """examples:
  python train_teacher.py --data-root DATA
      the published recipe on FlyingThings3D, into checkpoints/ft3d; train_student.py finds it as --teacher ft3d
  python train_teacher.py --dataset synthetic-things --num-points 1024 --epochs 20 --out runs/quick
      a short run on synthetic scenes, which need no download
  torchrun --nproc-per-node=2 train_teacher.py --data-root DATA
      the same training spread over two GPUs

The best checkpoint (best.pt) is the one with the lowest EPE3D on a validation part held out of the training scenes.
A run that was stopped goes on, exactly, with: python train_teacher.py --resume --out DIR
"""


def default_out(args: argparse.Namespace) -> Path:
    """Where --teacher looks for this teacher by name."""
    name = {"synthetic-things": "synthetic"}.get(args.dataset, args.dataset)
    return display_path(CHECKPOINTS / name)


def main(argv: list[str] | None = None) -> int:
    task = TASKS["scene-flow"]
    parser = Parser(prog="train_teacher.py", description=__doc__, epilog=EPILOG)
    add_data_flags(parser, task.datasets, default="ft3d")
    add_training_flags(parser, lr_step=80, out="checkpoints/NAME, NAME as for --teacher of train_student.py")
    add_machine_flags(parser, workers=2)
    args = parse_training(parser, argv, default_out)
    # With gamma 0 the loss is the ground truth's alone: a teacher is a student that has no teacher.
    return run_training(task, args, "train_teacher.py", task.teacher, Selection(gamma=0.0))


if __name__ == "__main__":
    run_script(main)
