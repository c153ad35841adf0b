"""The flags of both training scripts, and what a resumed run makes of them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.cli import flags_record, parse_data
from lib.errors import InputError
from lib.flags import Parser, number
from lib.tasks import Task
from lib.training.loading import steps_for
from lib.training.optim import OPTIMIZERS, SCHEDULES, Recipe
from lib.training.run_folder import RunFolder

# Flags that a resumed run may change: where it runs, where its data lie, and how long it goes on.
FREE_FLAGS = {"workers", "device", "out", "data_root", "epochs", "steps", "patience", "resume"}


def add_training_flags(parser: argparse.ArgumentParser, task: Task, role: str, out: str) -> None:
    """Flags of both training scripts. role: "teacher" or "student", whose published recipe is the default."""
    recipe = task.recipes[role]

    def published(name: str) -> Any:
        return recipe.get(name, Recipe.__dataclass_fields__[name].default)

    group = parser.add_argument_group("training (the defaults are the published recipe)")
    group.add_argument(
        "--batch-size",
        type=number(int, 1),
        metavar="B",
        default=published("batch_size"),
        help="scenes a step, over all processes together",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=number(int, 1),
        metavar="E",
        help=f"passes over the training scenes (default: {recipe['epochs']})",
    )
    length.add_argument("--steps", type=number(int, 1), metavar="K", help="length in steps, instead of --epochs")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), default=published("optimizer"), help="optimizer")
    group.add_argument("--lr", type=number(float, 0, open_low=True), default=published("lr"), help="learning rate")
    group.add_argument(
        "--schedule",
        choices=list(SCHEDULES),
        default=published("schedule"),
        help="step: changes every --lr-step epochs; one-cycle: up to 10 times --lr and down again; milestones: a tenth "
        "after 1/2, 2/3 and 5/6 of the steps",
    )
    group.add_argument(
        "--lr-step",
        type=number(int, 1),
        metavar="E",
        default=published("lr_step"),
        help="step: the learning rate changes every E epochs ...",
    )
    group.add_argument(
        "--lr-gamma",
        type=number(float, 0, 1, open_low=True),
        default=published("lr_gamma"),
        help="... by this factor",
    )
    group.add_argument(
        "--lr-min", type=number(float, 0), default=published("lr_min"), help="step: the rate never falls below this"
    )
    group.add_argument(
        "--lr-rise",
        type=number(float, 0, 1),
        default=published("lr_rise"),
        help="one-cycle: part of the steps in which the rate rises",
    )
    group.add_argument(
        "--warm-up",
        type=number(int, 0),
        metavar="K",
        default=published("warm_up"),
        help="milestones: steps in which the rate rises from a thousandth",
    )
    group.add_argument(
        "--weight-decay",
        type=number(float, 0),
        default=published("weight_decay"),
        help="L2 penalty of the weights; with adamw their decay",
    )
    group.add_argument(
        "--clip-norm",
        type=number(float, 0),
        default=published("clip_norm"),
        help="largest norm of the whole gradient; 0: not clipped",
    )
    group.add_argument(
        "--clip-value",
        type=number(float, 0),
        default=published("clip_value"),
        help="largest absolute value in the gradient; 0: not clipped",
    )
    group.add_argument(
        "--augment",
        choices=["auto", "on", "off"],
        default="auto",
        help="auto: as published, on for ft3d and synthetic-things, off for the others",
    )
    group.add_argument(
        "--seed",
        type=number(int, 0, 2**31 - 1),
        default=0,
        help="of the initial weights, the order of the scenes and the drawn points",
    )

    group = parser.add_argument_group("run")
    group.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder for config.json, log.jsonl, events, last.pt, best.pt and report.html (default: {out})",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, exactly where it stopped; flags not given keep its values",
    )
    group.add_argument(
        "--eval-every",
        type=number(int, 1),
        metavar="E",
        default=1,
        help="epochs between evaluations on the validation part (always in float32)",
    )
    group.add_argument(
        "--save-every",
        type=number(int, 0),
        metavar="K",
        default=0,
        help="also save last.pt every K steps; 0: only at evaluations",
    )
    group.add_argument(
        "--patience",
        type=number(int, 0),
        metavar="N",
        default=0,
        help="stop after N evaluations without a new best; 0: never",
    )


def recipe_of(args: argparse.Namespace, samples: int) -> Recipe:
    """How to train, as the flags say, for a number of training samples."""
    steps = args.steps or steps_for(args.epochs, samples, args.batch_size)
    return Recipe(steps, **{name: getattr(args, name) for name in Recipe.__dataclass_fields__ if name != "steps"})


def parse_training(
    parser: Parser,
    task: Task,
    role: str,
    argv: list[str] | None,
    default_out: Callable[[argparse.Namespace], Path],
) -> argparse.Namespace:
    """The flags of a training script. With --resume, flags that are not given take the run's own values.

    Raises InputError when a flag that is given contradicts the run.
    """
    given = parser.parse_args(argv)
    out = given.out or default_out(given)
    run = RunFolder(out)
    recorded = run.read_config()["flags"] if given.resume and run.config.exists() else {}
    length_given = given.epochs is not None or given.steps is not None
    skipped = {"out", "resume"} | ({"epochs", "steps"} if length_given else set())
    parser.set_defaults(**{name: value for name, value in recorded.items() if name not in skipped})
    args = parse_data(parser.parse_args(argv), task)
    args.out = out
    if args.epochs is None and args.steps is None:
        args.epochs = task.recipes[role]["epochs"]
    for name, value in flags_record(args).items():
        if name in recorded and name not in FREE_FLAGS and value != recorded[name]:
            flag = "--" + name.replace("_", "-")
            before = "not given" if recorded[name] is None else recorded[name]
            raise InputError(
                f"{flag} was {before} when the run in {out} began and is now {value}: leave it out to go on "
                f"with that run, or choose another folder with --out"
            )
    return args
