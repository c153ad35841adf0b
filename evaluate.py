#!/usr/bin/env python
"""Scores a checkpoint, or a baseline without a network, on a part of a data set. The score is the same on every run."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from lib import distributed
from lib.checkpoint import training_facts
from lib.cli import Parser, add_data_flags, add_machine_flags, parse_data, run_script, session
from lib.evaluation import Score
from lib.files import write_atomically
from lib.ops.errors import InputError
from lib.provenance import provenance
from lib.tasks import TASKS, Task
from lib.training import without_names
from models import count_parameters, load_model

EPILOG = """examples:
  python evaluate.py --checkpoint runs/student-kitti-ft3d-gamma0.3-seed0/best.pt --data-root DATA
      the six metrics on the 42 KITTI test frames, with size and speed
  python evaluate.py --baseline zero --dataset ft3d --data-root DATA --json zero.json
      what predicting no motion at all would score, also written as JSON

Each scene is scored alone and the metrics are averaged over scenes. The drawn points depend on the scene's index only.
"""


def main(argv: list[str] | None = None) -> int:
    task = TASKS["scene-flow"]
    args = parse(task, argv)
    to_stdout = args.json == "-"
    # With --json - standard output carries the JSON and nothing else.
    with contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext(), session(args) as device:
        pairs = task.open_pairs(args.dataset, args.split, args.data_root, args.subset, args.num_scenes, args.num_points)
        if args.checkpoint is None:
            model, about = task.baselines[args.baseline], {"baseline": args.baseline}
        else:
            model = load_model(args.checkpoint, device)
            model.sizes_for(args.num_points)
            facts = training_facts(args.checkpoint)
            about = describe(args.checkpoint, model, facts)
            warn_about_training_scenes(facts, pairs.scenes.names)
        score = task.evaluate(model, pairs, device, amp=args.amp, workers=args.workers)
        protocol = {
            "dataset": args.dataset,
            "split": args.split,
            "subset": args.subset,
            "scenes": len(pairs),
            "num_points": args.num_points,
            "amp": args.amp,
            "ops": args.ops,
            "device": str(device),
        }
        if distributed.is_main() and not to_stdout:
            print(table(task, score, about, protocol))
    if args.json and distributed.is_main():
        write_json(args.json, task, score, about, protocol)
    return 0


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="evaluate.py", description=__doc__, epilog=EPILOG)
    group = parser.add_argument_group("what to score")
    what = group.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="best.pt or last.pt, or a published state")
    what.add_argument(
        "--baseline",
        choices=list(task.baselines),
        help="zero: no motion; nearest: each point moves to its nearest target point",
    )
    add_data_flags(parser, task.datasets, default="kitti")
    group.add_argument(
        "--split",
        choices=["test", "all", "validation", "train"],
        default="test",
        help="test: reported; all: every evaluated KITTI frame; validation: held out of training",
    )
    add_machine_flags(parser, workers=0)
    parser.add_argument(
        "--json", metavar="FILE", help="also write the result as JSON, scene by scene; - prints it alone"
    )
    args = parse_data(parser.parse_args(argv))
    if args.json not in (None, "-") and not Path(args.json).resolve().parent.is_dir():
        raise InputError(f"--json {args.json}: its folder does not exist; create it first")
    return args


def describe(path: Path, model: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """JSON-able facts about a network and its file."""
    parameters = count_parameters(model)
    return {
        "checkpoint": str(path),
        "network": model.name,
        "options": model.options,
        "parameters": parameters,
        "megabytes": parameters * 4 / 1e6,  # float32 weights, 1 MB = 10^6 bytes
        "training": without_names(facts),
    }


def warn_about_training_scenes(facts: dict[str, Any], names: list[str]) -> None:
    """One line on standard error when scenes to be scored were trained on, by the network or by its teacher."""
    for who, trained in (("the network", facts), ("its teacher", facts.get("teacher", {}))):
        seen = len(set(names) & set(trained.get("scenes", [])))
        if seen and distributed.is_main():
            print(
                f"warning: {who} was trained on {seen} of these {len(names)} scenes: this is no score on unseen data",
                file=sys.stderr,
            )


def table(task: Task, score: Score, about: dict[str, Any], protocol: dict[str, Any]) -> str:
    """The result for reading."""
    if "baseline" in about:
        model, size = f"baseline {about['baseline']}", []
    else:
        step = about["training"].get("step")
        model = f"{about['checkpoint']} ({about['network']}" + (f", step {step})" if step is not None else ")")
        size = [("parameters", f"{about['parameters']:,}")]
        size += [("size", f"{about['megabytes']:.1f} MB (float32 weights, 1 MB = 10^6 bytes)")]
    data = f"{protocol['dataset']}, {protocol['split']}, {protocol['scenes']} scenes, {protocol['num_points']} points"
    rows = [("model", model), ("data", data)]
    rows += [(name, f"{value:.4f} {task.units[name]}".rstrip()) for name, value in score.metrics.items()]
    timing = f"{score.seconds_per_pair:.4f} s (network alone, one pair at a time, {protocol['device']})"
    rows += [*size, ("time per pair", timing)]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def write_json(target: str, task: Task, score: Score, about: dict[str, Any], protocol: dict[str, Any]) -> None:
    result = {
        "task": task.name,
        **about,
        "protocol": protocol,
        "metrics": score.metrics,
        "units": task.units,
        "seconds_per_pair": score.seconds_per_pair,
        "scenes": score.scenes,
        "provenance": provenance(),
    }
    text = json.dumps(result, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(Path(target), text.encode())


if __name__ == "__main__":
    run_script(main)
