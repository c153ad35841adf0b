#!/usr/bin/env python
"""Trains a teacher against ground truth."""

import argparse
from pathlib import Path
from typing import Any

from lib import cli, cli_training
from lib.evaluation import evaluate
from lib.flags import Parser
from lib.tasks import Task
from lib.training import run
from lib.training.checkpoint import CHECKPOINTS
from lib.training.engine import Trainer
from lib.training.run_folder import RunFolder, display_path, say
from models import build_model, count_parameters

# isort: split
import torch
from torch import Tensor, nn

EPILOG = """examples:
  python train_teacher.py --data-root DATA
      the published recipe on FlyingThings3D, into checkpoints/ft3d; train_student.py finds it as --teacher ft3d
  python train_teacher.py --dataset synthetic-things --num-points 1024 --epochs 20 --out runs/quick
      a short run on synthetic scenes, which need no download
  torchrun --nproc-per-node=2 train_teacher.py --data-root DATA
      the same training spread over two GPUs
  python train_teacher.py --task lidar-detection --dataset synthetic-lidar
      a small LiDAR detector on synthetic streets, with settings for a CPU (docs/train.md)

The best checkpoint (best.pt) is the one with the best score (scene flow: the lowest EPE3D) on the validation part,
which is held out of training. A run that was stopped goes on, exactly, with: python train_teacher.py --resume --out DIR
"""


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="train_teacher.py", description=__doc__, epilog=EPILOG)
    cli.add_task_flag(parser)
    parser.add_argument("--model", choices=list(task.teachers), default=next(iter(task.teachers)), help="network")
    cli.add_data_flags(parser, task, default=task.default_datasets["teacher"])
    cli_training.add_training_flags(
        parser, task, "teacher", out="checkpoints/NAME, NAME as for --teacher of train_student.py"
    )
    cli.add_machine_flags(parser, workers=2)

    def default_out(args: argparse.Namespace) -> Path:
        """Where --teacher looks for this teacher by name."""
        names = {dataset: name for name, dataset in task.known_teachers.items()}
        return display_path(CHECKPOINTS / task.folder / names.get(args.dataset, args.dataset))

    return cli_training.parse_training(parser, task, "teacher", argv, default_out)


def main(argv: list[str] | None = None) -> int:
    task = cli.chosen_task(argv)
    args = parse(task, argv)
    with cli.session(args, args.seed) as device:
        net = build_model(task.teachers[args.model]).to(device)  # before anything else draws random numbers
        task.check(net, args)
        train, validation = (task.open(args.dataset, part, args) for part in ("train", "validation"))
        recipe = cli_training.recipe_of(args, len(train))

        def step(net: nn.Module, batch: Any, done: float) -> dict[str, Tensor]:
            outputs = task.forward(net, batch)
            with torch.autocast(device.type, enabled=False):  # losses in full precision
                parts = task.loss(outputs, batch)
            loss = sum(parts.values())
            return {"loss": loss, "loss_gt": loss, **(parts if len(parts) > 1 else {})}

        def validate(net: nn.Module, interrupted: Any) -> dict[str, float]:
            options = {"description": "validation", "workers": args.workers, "interrupted": interrupted}
            return evaluate(task, net, validation, device, **options).metrics

        facts = run.facts_of(task, args, train, recipe)
        trainer = Trainer(task, net, step, train, validate, recipe, RunFolder(args.out), device, facts)
        flags = cli.flags_record(args)
        if not run.take_up(trainer, flags):
            return 0
        say(
            f"{net.name}: {count_parameters(net):,} parameters; {args.dataset}: {len(train)} training "
            f"{task.sample}s, {len(validation)} held out for validation; {recipe.steps} steps"
        )
        return run.train(trainer, flags, "train_teacher.py", run.evaluate_command(task, args))


if __name__ == "__main__":
    cli.run_script(main)
