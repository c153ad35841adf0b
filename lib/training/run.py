"""A training run from its folder's point of view: begun or gone on with, trained, reported."""

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import torch

from lib.errors import InputError
from lib.files import write_atomically
from lib.provenance import provenance
from lib.show.training_report import training_report
from lib.tasks.task import Task
from lib.training import distributed
from lib.training.checkpoint import training_facts
from lib.training.engine import Trainer
from lib.training.optim import Recipe
from lib.training.run_folder import RunFolder, say


def facts_of(task: Task, args: Any, samples: Any, recipe: Recipe) -> dict[str, Any]:
    """What checkpoints and config.json say of the training: task, data, batch size and seed, JSON-able.

    args: the flags of the script. samples: as ``task.open`` gives them.
    """
    return {
        "task": task.name,
        "dataset": args.dataset,
        **{name: getattr(args, name) for name in task.protocol},
        "scenes": list(samples.names),
        "batch_size": recipe.batch_size,
        "seed": args.seed,
    }


def evaluate_command(task: Task, args: Any) -> list[str]:
    """The words of the command that scores the best checkpoint of the run in --out."""
    command = ["python", "evaluate.py", "--checkpoint", str(RunFolder(args.out).best), "--dataset", args.dataset]
    command += ["--data-root", str(args.data_root)] if args.data_root else []
    for name in task.repeated:
        command += ["--" + name.replace("_", "-"), str(getattr(args, name))]
    return command


def take_up(trainer: Trainer, flags: dict[str, Any]) -> bool:
    """With --resume goes on where the run stopped, if it has begun; flags: JSON-able.

    Returns False when the run is finished. Raises InputError when the data or the teacher are no longer those of the
    run, or when its files are damaged.
    """
    run = trainer.run_folder
    if flags["resume"] and run.config.exists() and run.last.exists():
        _check_unchanged(run.last, trainer.facts)
        trainer.restore()
        run.read_log()
        if trainer.finished():
            say(f"the run in {run.path} is finished: {trainer.progress.step} steps, nothing left to do")
            return False
        say(f"going on with {run.path} after step {trainer.progress.step}")
    elif flags["resume"]:
        say(f"nothing saved in {run.path} yet: starting at step 0")
    return True


def train(trainer: Trainer, flags: dict[str, Any], script: str, score_with: list[str]) -> int:
    """Trains to the end and writes report.html; returns the exit status, 128 + N after a signal N.

    flags: JSON-able, for config.json. script: what to start to go on. score_with: the words of the command that scores
    best.pt. Raises InputError when the folder holds another run.
    """
    run, task, progress = trainer.run_folder, trainer.task, trainer.progress
    _open_folder(run, flags, trainer.facts)
    stopped = trainer.run()
    if stopped is not None:
        processes = distributed.world_size()
        launcher = ["python"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}"]
        command = shlex.join([*launcher, script, "--resume", "--out", str(run.path)])
        say(
            f"stopped by {signal.Signals(stopped).name} after step {progress.step} of {trainer.recipe.steps}, "
            f"saved {run.last}; go on with: {command}"
        )
        return 128 + stopped
    if distributed.is_main():
        # Out of the run's own files: all of it, with what was before a resume.
        records = [json.loads(line) for _, line in run.read_log()]
        content = training_report(str(run.path), run.read_config(), records, task.best_metric, task.printed)
        write_atomically(run.report, content)
        say(f"curves and settings: {run.report}")
    best = f"{progress.best:.4f} {task.units[task.best_metric]}".rstrip()
    say(
        f"done: best validation {task.best_metric} {best} at step {progress.best_step}; "
        f"score it with: {shlex.join(score_with)}"
    )
    return 0


def without_names(facts: dict[str, Any]) -> dict[str, Any]:
    """Training facts with the number of samples in place of their names, for reading."""
    counted = {"scenes": len(facts["scenes"])} if "scenes" in facts else {}
    teacher = {"teacher": without_names(facts["teacher"])} if "teacher" in facts else {}
    return facts | counted | teacher


def _open_folder(run: RunFolder, flags: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes config.json, or adds this start to that of the run to go on with. Other processes wait for the main."""
    if distributed.is_main():
        present = run.present()
        now = {"flags": flags, "provenance": provenance()}
        if flags["resume"] and run.config.exists():
            config = run.read_config()
            before = config.get("provenance", {}).get("machine", {}).get("threads")
            if before != (threads := torch.get_num_threads()):
                say(f"the run began with {before} threads and goes on with {threads}: last bits of numbers may differ")
            run.write_config(config | {"flags": flags, "resumed": [*config["resumed"], now]})
        elif present:
            what = "add --resume to go on with it" if run.config.exists() else "it has no config.json to go on from"
            raise InputError(
                f"{run.path} already holds a run ({', '.join(present)}): {what}, or choose another folder with --out"
            )
        else:
            run.write_config({**now, "training": without_names(facts), "resumed": []})
    distributed.barrier()


def _check_unchanged(last: Path, facts: dict[str, Any]) -> None:
    """Raises InputError when the data or the teacher are not those that the saved run had."""
    before = training_facts(last)
    if before["scenes"] != facts["scenes"]:
        raise InputError(
            f"the training samples are no longer those of the run in {last.parent}: {len(before['scenes'])} then, "
            f"{len(facts['scenes'])} now; restore them, or start again with another --out"
        )
    if "teacher" in facts and before["teacher"]["sha256"] != facts["teacher"]["sha256"]:
        raise InputError(
            f"the teacher {facts['teacher']['path']} has changed since the run in {last.parent} began: restore it, or "
            f"start again with another --out"
        )
