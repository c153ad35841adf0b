#!/usr/bin/env python
"""Scores checkpoints, or a baseline without a network, on a part of a data set. The score is the same on every run."""

import lib  # noqa: F401  (before torch: it sets up OpenMP)

# isort: split
import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from lib import cli
from lib.errors import InputError
from lib.evaluation import Score, evaluate
from lib.files import write_atomically
from lib.flags import Parser, check_output
from lib.provenance import provenance
from lib.tables.reading import summary, table
from lib.tasks import Task, task_of
from lib.training import distributed
from lib.training.checkpoint import training_facts
from lib.training.run import without_names
from models import count_parameters, load_model

EPILOG = """examples:
  python evaluate.py --checkpoint runs/student-kitti-ft3d-gamma0.3-seed0/best.pt --data-root DATA
      scene flow: the six metrics on the 42 KITTI test frames, with the network's size and time
  python evaluate.py --table checkpoints/ft3d/best.pt runs/*/best.pt --data-root DATA --json table.json
      several checkpoints side by side, one line each
  python evaluate.py --baseline zero --dataset ft3d --data-root DATA --json zero.json
      what predicting no motion at all would score, also written as JSON
  python evaluate.py --task lidar-detection --results DIR --labels DATA/training/label_2 --json scores.json
      result files of any detector by KITTI's rules

Samples are scored one at a time. What is drawn at random for a sample depends on its index only. So the score does not
depend on a batch size or on the number of processes.
"""


def main(argv: list[str] | None = None) -> int:
    task = cli.task_of_checkpoint(argv, ("--checkpoint", "--table"))
    args = parse(task, argv)
    if args.results:
        return score_files(task, args)
    to_stdout = args.json == "-"
    # With --json - standard output carries the JSON and nothing else.
    quiet = contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext()
    with quiet, cli.session(args) as device:
        samples = task.open(args.dataset, args.split, args)
        protocol = {
            "dataset": args.dataset,
            "split": args.split,
            "scenes": len(samples),
            **{name: getattr(args, name) for name in task.protocol},
            "amp": args.amp,
            "ops": args.ops,
            "cuda_graph": args.cuda_graph,
            "device": str(device),
        }
        if args.baseline is not None:
            models = [(task.baselines[args.baseline], {"baseline": args.baseline})]
        else:
            # All are read before the first is scored: a mistake in the last path is said at once.
            models = [open_checkpoint(task, path, args, device) for path in args.table or [args.checkpoint]]
        report = task.report() if args.html else None
        results, seen = [], report.start() if report else None
        for model, about in models:
            warn_if_trained_on(task, about, samples.names)
            model = task.graphed(model) if args.cuda_graph else model
            watch = {"observe": seen.observe} if seen else {}
            score = evaluate(task, model, samples, device, amp=args.amp, workers=args.workers, **watch)
            results.append(as_json(task, score, about, protocol))
        if seen:
            seen = report.merge(distributed.gather_objects(seen))
        if distributed.is_main() and not to_stdout:
            print(table(results) if args.table else summary(results[0]))
    if args.json and distributed.is_main():
        write_json(args.json, results if args.table else results[0])
    if seen and distributed.is_main():
        write_atomically(args.html, report.page(results[0], seen))
    return 0


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="evaluate.py", description=__doc__, epilog=EPILOG)
    group = parser.add_argument_group("what to score")
    what = group.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="best.pt or last.pt, or published weights")
    what.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="several checkpoints, one line each")
    what.add_argument("--baseline", choices=list(task.baselines), help="what predicts without a network")
    if task.read_results:
        what.add_argument(
            "--results",
            type=Path,
            metavar="DIR",
            help="result files of any detector: KITTI lines, a file for each frame",
        )
        group.add_argument("--labels", type=Path, metavar="DIR", help="with --results: label files of the same frames")
        group.add_argument("--frames", type=Path, metavar="FILE", help="with --results: list of frames (default: all)")
    else:
        parser.set_defaults(results=None, labels=None, frames=None)
    cli.add_task_flag(group, "task of what is no checkpoint; a checkpoint knows its own")
    cli.add_data_flags(parser, task, default=task.default_datasets["student"])
    group.add_argument(
        "--split",
        choices=list(task.parts),
        default="test",
        help="; ".join(f"{part}: {purpose}" for part, purpose in task.parts.items()),
    )
    cli.add_machine_flags(parser, workers=0)
    cli.add_graph_flag(parser)
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the result as JSON, with a record for each sample (--table: a list of results); - prints the "
        "JSON and nothing else",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE.html",
        help="also write a report page: charts, best and worst samples",
    )
    args = cli.parse_data(parser.parse_args(argv), task)
    for flag, missing in (("html", task.report is None), ("cuda_graph", task.graphed is None)):
        if missing and getattr(args, flag):
            raise InputError(f"--{flag.replace('_', '-')} is not there for {task.name}: leave it out")
    if args.results is None and (args.labels or args.frames):
        raise InputError("--labels and --frames go with --results: leave them out, or score result files")
    if args.html:
        check_output("--html", args.html, [".html"])
        if args.table:
            raise InputError("--html reports on one checkpoint: leave --table out")
    if args.cuda_graph and args.baseline is not None:
        raise InputError("--cuda-graph records a network: use it with --checkpoint, not with --baseline")
    if args.json not in (None, "-") and not Path(args.json).resolve().parent.is_dir():
        raise InputError(f"--json {args.json}: its folder does not exist; create it first")
    return args


def score_files(task: Task, args: argparse.Namespace) -> int:
    """Scores result files. Only the flags --labels, --frames and --json count."""
    if args.labels is None:
        raise InputError("--results needs --labels: the folder of label files of the same frames")
    if args.html:
        raise InputError("--html needs scans or images: leave it out with --results")
    records = task.read_results(args.results, args.labels, args.frames)
    frames = str(args.frames) if args.frames else "all"
    protocol = {"dataset": str(args.labels), "split": frames, "scenes": len(records)}
    result = as_json(task, Score(task.summarise(records), records, None), {"results": str(args.results)}, protocol)
    if args.json:
        write_json(args.json, result)
    if args.json != "-":
        print(summary(result))
    return 0


def open_checkpoint(
    task: Task, path: Path, args: argparse.Namespace, device: torch.device
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network and JSON-able facts about it and its file. Raises InputError for a file that is unfit."""
    model = load_model(path, device)
    other = task_of(model.name)
    if other is not task:
        raise InputError(f"{path} is a network for {other.name}, the first one is for {task.name}: one table, one task")
    task.check(model, args)
    parameters, flops = count_parameters(model), task.flops(model, args)
    return model, {
        "checkpoint": str(path),
        "network": model.name,
        "options": model.options,
        "parameters": parameters,
        "megabytes": parameters * 4 / 1e6,  # float32 weights, 1 MB = 10^6 bytes
        "file_megabytes": path.stat().st_size / 1e6,
        "gigaflop": None if flops is None else flops / 1e9,  # a sample
        "training": training_facts(path),
    }


def warn_if_trained_on(task: Task, about: dict[str, Any], names: list[str]) -> None:
    """One line on standard error when samples to be scored were trained on, by the network or by its teacher."""
    facts = about.get("training", {})
    for who, trained in (("the network", facts), ("its teacher", facts.get("teacher", {}))):
        seen = len(set(names) & set(trained.get("scenes", [])))
        if seen and distributed.is_main():
            print(
                f"warning: {who} was trained on {seen} of these {len(names)} {task.sample}s: this is no score on "
                f"unseen data ({about['checkpoint']})",
                file=sys.stderr,
            )


def as_json(task: Task, score: Score, about: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
    """What --json writes for one model; the texts for reading are made of it, too."""
    training = {"training": without_names(about["training"])} if "training" in about else {}
    return {
        "task": task.name,
        "sample": task.sample,
        **about,
        **training,
        "protocol": protocol,
        "metrics": score.metrics,
        "units": task.units,
        **({"headline": list(task.headline)} if task.headline else {}),
        "best_metric": {"name": task.best_metric, "better": "lower" if task.lower_is_better else "higher"},
        **({} if score.seconds is None else {"seconds_per_sample": score.seconds}),
        "scenes": [task.brief(record) for record in score.records],  # of every task, whatever its samples are called
        "provenance": provenance(),
    }


def write_json(target: str, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(Path(target), text.encode())


if __name__ == "__main__":
    cli.run_script(main)
