"""The flags of both training scripts, and what a resumed run makes of them."""

import argparse
from collections.abc import Callable, Mapping
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

# Fields of Recipe that are flags: name -> (options of argparse, help). The defaults are the task's.
RECIPE_FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size": ({"type": number(int, 1), "metavar": "B"}, "samples a step, over all processes together"),
    "optimizer": ({"choices": list(OPTIMIZERS)}, "optimizer"),
    "lr": ({"type": number(float, 0, open_low=True)}, "learning rate"),
    "schedule": (
        {"choices": list(SCHEDULES)},
        "how the learning rate changes. step: times --lr-gamma every --lr-step epochs; one-cycle: up to 10 times --lr, "
        "then down; milestones: a tenth after each of 1/2, 2/3 and 5/6 of the steps",
    ),
    "lr_step": ({"type": number(int, 1), "metavar": "E"}, "step: epochs between two changes of the learning rate"),
    "lr_gamma": ({"type": number(float, 0, 1, open_low=True)}, "step: factor of a change"),
    "lr_min": ({"type": number(float, 0)}, "step: the learning rate never falls below this"),
    "lr_rise": ({"type": number(float, 0, 1)}, "one-cycle: share of the steps in which the learning rate rises"),
    "warm_up": (
        {"type": number(int, 0), "metavar": "K"},
        "milestones: steps in which the learning rate rises from --lr / 1000 to --lr",
    ),
    "weight_decay": ({"type": number(float, 0)}, "L2 penalty of the weights (adam, sgd) or their decay (adamw)"),
    "clip_norm": ({"type": number(float, 0)}, "clip the norm of the whole gradient to this; 0: do not clip"),
    "clip_value": ({"type": number(float, 0)}, "clip each value of the gradient to this; 0: do not clip"),
}


RUN_FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "eval_every": (
        {"type": number(int, 1), "metavar": "E"},
        "epochs between evaluations on the validation part (always in float32)",
    ),
    "save_every": (
        {"type": number(int, 0), "metavar": "K"},
        "also save last.pt every K steps; 0: only at evaluations",
    ),
    "patience": ({"type": number(int, 0), "metavar": "N"}, "stop after N evaluations without a new best; 0: never"),
}


def add_training_flags(parser: argparse.ArgumentParser, task: Task, role: str, out: str) -> None:
    """Flags of both training scripts. role: "teacher" or "student", whose published recipe is the default."""
    recipe = task.recipes[role]
    others = [key.removeprefix(f"{role} on ") for key in task.recipes if key.startswith(f"{role} on ")]
    differing = f"; --dataset {' and '.join(others)} has others: docs/train.md" if others else ""
    group = parser.add_argument_group(f"training (the defaults are the published recipe{differing})")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=number(int, 1),
        metavar="E",
        help=f"passes over the training samples (default: {recipe['epochs']})",
    )
    length.add_argument("--steps", type=number(int, 1), metavar="K", help="length in steps, instead of --epochs")
    _add_recipe_flags(group, RECIPE_FLAGS, recipe)
    if task.augmentation:
        group.add_argument(
            "--augment",
            choices=["auto", "on", "off"],
            default="auto",
            help=f"random changes of the training samples; auto: {task.augmentation}",
        )
    group.add_argument(
        "--seed",
        type=number(int, 0, 2**31 - 1),
        default=0,
        help="seed of the initial weights, the order of the samples and all that is drawn at random",
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
    _add_recipe_flags(group, RUN_FLAGS, recipe)


def _add_recipe_flags(group: Any, flags: dict[str, tuple[dict[str, Any], str]], recipe: Mapping[str, Any]) -> None:
    for name, (options, text) in flags.items():
        default = recipe.get(name, Recipe.__dataclass_fields__[name].default)
        group.add_argument("--" + name.replace("_", "-"), **options, default=default, help=text)


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
    recipe = task.recipe(role, parser.parse_args(argv).dataset)
    parser.set_defaults(**{name: value for name, value in recipe.items() if name != "epochs"})
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
        args.epochs = recipe["epochs"]
    for name, value in flags_record(args).items():
        if name in recorded and name not in FREE_FLAGS and value != recorded[name]:
            flag = "--" + name.replace("_", "-")
            before = "not given" if recorded[name] is None else recorded[name]
            raise InputError(
                f"{flag} was {before} when the run in {out} began and is now {value}: leave it out to go on "
                f"with that run, or choose another folder with --out"
            )
    return args
