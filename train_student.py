#!/usr/bin/env python
"""Distils a student from a trained teacher: minimises gamma * L_KD + (1 - gamma) * L_GT.

L_GT is the distance of the student's prediction to the ground truth, L_KD its distance to the teacher's prediction on
the same samples. gamma 0 trains the student from scratch and loads no teacher; gamma 1 uses no ground truth in the
loss. --distill adds the losses of other methods.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from lib import cli, cli_training
from lib.errors import InputError
from lib.evaluation import evaluate
from lib.flags import Parser
from lib.losses.distill import METHODS, OutputDistillation, Selection, Setting, default_options, parse_distill
from lib.provenance import PROJECT_ROOT
from lib.tasks import Task, task_of
from lib.tasks.distil import Distiller
from lib.training import distributed, run
from lib.training.checkpoint import file_digest, resolve_teacher, training_facts
from lib.training.device import to_device
from lib.training.engine import Trainer
from lib.training.run_folder import RunFolder, display_path, metrics_line, say
from models import build_model, count_parameters, load_model

# isort: split
import torch
from torch import nn

EPILOG = """examples:
  python train_student.py --teacher ft3d --gamma 0.3 --data-root DATA
      a student for KITTI from the teacher that train_teacher.py left in checkpoints/ft3d
      (published: 560 epochs with a KITTI teacher, 1200 epochs with a FlyingThings3D teacher)
  python train_student.py --teacher ft3d --distill output:0.3,multiscale:0.5,rkd --data-root DATA
      the same with two more terms in the loss; docs/methods.md has the list
  python train_student.py --gamma 0 --dataset synthetic-drive --num-points 1024 --epochs 20
      the same student without a teacher, on synthetic street scenes, which need no download
  python train_student.py --task lidar-detection --dataset synthetic-lidar --teacher synthetic
      --distill output:0,pointdistiller
      a LiDAR detector with the labels and PointDistiller (docs/train.md)

Before the first step the teacher and a baseline are scored on the validation part: a broken teacher is seen at once.
A run that was stopped goes on, exactly, with: python train_student.py --resume --out DIR
"""


def main(argv: list[str] | None = None) -> int:
    task = cli.chosen_task(argv)
    args = parse(task, argv)
    methods = chosen_methods(task, args)
    teacher_file = find_teacher(task, args, methods)
    with cli.session(args, args.seed) as device:
        student = build_model(task.students[args.student]).to(device)  # before anything else draws random numbers
        task.check(student, args)
        train, validation = (task.open(args.dataset, part, args) for part in ("train", "validation"))
        teacher = open_teacher(task, args, teacher_file, device) if teacher_file else None
        recipe = cli_training.recipe_of(args, len(train))

        # The loss, gamma * L_KD + (1 - gamma) * L_GT + weighted terms. It owns what is trained beside the student.
        setting = Setting(
            student=task.shapes(student),
            teacher=task.shapes(teacher) if teacher else None,
            batch=recipe.batch_size // distributed.world_size(),
            build_peer=partial(build_peer, task),
            logits=task.logits(student),
            levels=task.levels,
        )
        method = methods.build(setting, task.methods).to(device)
        distiller = Distiller(task, args, method, teacher)  # one step: student, teacher without gradient, loss

        def validate(net: nn.Module, interrupted: Any = lambda: False) -> dict[str, float]:
            options = {"description": "validation", "workers": args.workers, "interrupted": interrupted}
            return evaluate(task, net, validation, device, **options).metrics

        facts = run.facts_of(task, args, train, recipe) | methods.facts()
        if teacher:
            facts["teacher"] = teacher_facts(teacher_file)
        trainer = Trainer(
            task,
            student,
            distiller.step,
            train,
            validate,
            recipe,
            RunFolder(args.out),
            device,
            facts,
            adapters=method,
            before_epoch=refresher(task, distiller, validation, device),
        )
        flags = cli.flags_record(args)
        if not run.take_up(trainer, flags):
            return 0
        if teacher:
            say_scores(task, validate, teacher, teacher_file)
        say(
            f"{student.name}: {count_parameters(student):,} parameters; {args.dataset}: {len(train)} training "
            f"{task.sample}s, {len(validation)} held out for validation; {recipe.steps} steps"
        )
        return run.train(trainer, flags, "train_student.py", run.evaluate_command(task, args))


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="train_student.py", description=__doc__.strip(), epilog=EPILOG)
    cli.add_task_flag(parser)
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--teacher",
        metavar="|".join([*task.known_teachers, "PATH"]),
        help=f"a name: NAME/best.pt or NAME.pt in {Path('checkpoints', task.folder)}/; anything else: a path",
    )
    first, *_ = task.students
    group.add_argument("--student", choices=list(task.students), default=first, help="which student, by its width")
    group.add_argument(
        "--gamma",
        type=float,
        help=f"weight of the teacher, from 0 to 1, as in --distill output:G (default: {OutputDistillation.weight})",
    )
    group.add_argument(
        "--distill",
        metavar="METHOD[@PLACE][+OPTION=VALUE...][:WEIGHT],...",
        help=f"methods whose losses are added up, of {', '.join(METHODS)} (default: output); with options, as they "
        f"are by default: {', '.join(default_options())}",
    )
    task.add_student_flags(group)
    cli.add_data_flags(parser, task, default=task.default_datasets["student"])
    cli_training.add_training_flags(parser, task, "student", out="runs/student-DATASET-TEACHER-gammaG-seedS")
    cli.add_machine_flags(parser, workers=2)
    return cli_training.parse_training(parser, task, "student", argv, partial(default_out, task))


def chosen_methods(task: Task, args: argparse.Namespace) -> Selection:
    """What --distill and --gamma say together."""
    return parse_distill(args.distill, args.gamma, task.methods)


def default_out(task: Task, args: argparse.Namespace) -> Path:
    """runs/student-<data set>-<teacher>-gamma<g>-seed<s>, with more to its name for other students and methods."""
    methods = chosen_methods(task, args)
    teacher = "scratch"
    if methods.teacher_users and args.teacher is not None:
        path = Path(args.teacher)
        teacher = path.parent.name if path.stem in ("best", "last") else path.stem
    first, *_ = task.students
    student = "student" if args.student == first else f"student_{args.student}"
    terms = "".join("+" + str(term).replace(":", "-").replace("/", ".") for term in methods.terms)
    name = f"{student}-{args.dataset}-{teacher}-gamma{methods.gamma:g}{terms}-seed{args.seed}"
    return display_path(PROJECT_ROOT / "runs" / name)


def find_teacher(task: Task, args: argparse.Namespace, methods: Selection) -> Path | None:
    """The teacher's file; None where no method needs one. Raises InputError when it is not given or not there."""
    if not methods.teacher_users:
        if args.teacher is not None:
            say(f"gamma is 0: the teacher {args.teacher} is not used")
        return None
    if args.teacher is None:
        without = "choose methods that need none" if methods.terms else "--gamma 0 to train from scratch"
        raise InputError(
            f"--teacher is needed for {', '.join(methods.teacher_users)}: give {', '.join(task.known_teachers)} or a "
            f"checkpoint's path, or {without}"
        )
    commands = {name: task.command_for(name) for name in task.known_teachers}
    return resolve_teacher(args.teacher, commands, task=task.folder)


def open_teacher(task: Task, args: argparse.Namespace, path: Path, device: torch.device) -> nn.Module:
    """The frozen network. Raises InputError for one of another task, and one that cannot take the student's samples."""
    teacher = load_model(path, device)
    other = task_of(teacher.name)
    if other is not None and other is not task:
        raise InputError(
            f"--teacher {path} is a network for {other.name}, the student one for {task.name}: give a teacher of the "
            "same task"
        )
    try:
        task.check(teacher, args)
    except InputError as error:
        raise InputError(f"--teacher {path} does not fit: {error}") from error
    return teacher


def build_peer(task: Task, name: str) -> nn.Module:
    """A new network to train along with the student. Raises InputError for a name that is none."""
    if name not in task.networks:
        raise InputError(f"--distill: there is no network {name!r} for a peer: choose of {', '.join(task.networks)}")
    return build_model(task.networks[name])


def teacher_facts(path: Path) -> dict[str, Any]:
    facts = training_facts(path)
    known = {"dataset": facts.get("dataset"), "scenes": facts.get("scenes", [])}
    return {"path": str(path), "sha256": file_digest(path), **known}


def refresher(task: Task, distiller: Distiller, validation: Any, device: torch.device) -> Any:
    """What a method wants done before each epoch: a look at the first validation samples. None where it wants none."""
    if not distiller.method.held_out:
        return None
    count = min(distiller.method.held_out, len(validation))
    batch = to_device(task.collate([validation[i] for i in range(count)]), device)
    return partial(distiller.refresh, batch=batch)


def say_scores(task: Task, validate: Any, teacher: nn.Module, path: Path) -> None:
    """How good the teacher and a baseline are on the validation part."""
    baseline, model = next(iter(task.baselines.items()))
    for name, scored in ((f"teacher {display_path(path)}", teacher), (f"baseline {baseline}", model)):
        say(f"{name} on the validation part: {metrics_line(validate(scored), task.printed)}")


if __name__ == "__main__":
    cli.run_script(main)
