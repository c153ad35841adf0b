"""What both training scripts do once their flags are read: from data folders and a network to a finished run."""

import json
import os
import shlex
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.cli import flags_record, session
from lib.errors import InputError
from lib.files import write_atomically
from lib.losses.distill import DistillationMethod, Selection, Setting
from lib.provenance import provenance
from lib.show.training_report import training_report
from lib.tasks.scene_flow import Task
from lib.training import distributed
from lib.training.checkpoint import file_digest, training_facts
from lib.training.engine import Recipe, Trainer, to_device
from lib.training.loading import SampleStream, steps_for
from lib.training.run_folder import RunFolder, metrics_line, say
from models import build_model, count_parameters, load_model


def run_training(
    task: Task, args: Any, script: str, network: str, methods: Selection, teacher: Path | None = None, **options: Any
) -> int:
    """Trains ``network`` (built with ``options``) under ``methods`` as the flags say; returns the exit status.

    teacher: the checkpoint of the teacher, needed when one of the methods asks for one. Flags, data folders and
    teacher are checked before the run's folder is made. Raises InputError for whatever is wrong.
    """
    with session(args, args.seed) as device:
        train, validation = (
            task.open_pairs(
                args.dataset,
                part,
                args.data_root,
                args.subset,
                args.num_scenes,
                args.num_points,
                augment=args.augment,
                seed=args.seed,
            )
            for part in ("train", "validation")
        )
        net = build_model(network, **options).to(device)  # before anything else draws random numbers
        net.sizes_for(args.num_points)
        recipe = _recipe(args, len(train))
        SampleStream(len(train), recipe.batch_size, 0, 0, 0, world=distributed.world_size())
        facts = {
            "task": task.name,
            "dataset": args.dataset,
            "subset": args.subset,
            "num_points": args.num_points,
            "scenes": list(train.scenes.names),
            "batch_size": recipe.batch_size,
            "seed": args.seed,
        }
        facts |= methods.facts()
        teacher_net, teacher_widths = None, None
        if methods.teacher_users:
            teacher_net = load_model(teacher, device)
            teacher_widths = teacher_net.feature_widths()
            facts |= {"teacher": _teacher_facts(teacher)}
        batch = recipe.batch_size // distributed.world_size()
        setting = Setting(net.feature_widths(), teacher_widths, batch, partial(_build_peer, task))
        method = methods.build(setting).to(device)

        run = RunFolder(args.out)
        trainer = Trainer(
            net,
            partial(task.losses, method=method, teacher=teacher_net),
            train,
            task.collate,
            lambda net, interrupted: task.evaluate(
                net, validation, device, description="validation", workers=args.workers, interrupted=interrupted
            ),
            task.best_metric,
            task.units,
            recipe,
            run,
            device,
            facts,
            adapters=method,
            before_epoch=_refreshing(task, method, teacher_net, validation, device),
        )
        if args.resume and run.config.exists() and run.last.exists():
            _check_unchanged(run.last, facts)
            trainer.restore()
            run.read_log()
            if trainer.finished():
                say(f"the run in {run.path} is finished: {trainer.progress.step} steps, nothing left to do")
                return 0
            say(f"going on with {run.path} after step {trainer.progress.step}")
        elif args.resume:
            say(f"nothing saved in {run.path} yet: starting at step 0")
        if teacher_net is not None:
            _score_teacher(task, teacher_net, teacher, validation, device)
        _open_run(run, args, facts)

        say(
            f"{network}: {count_parameters(net):,} parameters; {args.dataset}: {len(train)} training scenes, "
            f"{len(validation)} held out for validation; {recipe.steps} steps"
        )
        stopped = trainer.run()
        if stopped is not None:
            processes = distributed.world_size()
            launcher = ["python"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}"]
            command = shlex.join([*launcher, script, "--resume", "--out", str(run.path)])
            say(
                f"stopped by {signal.Signals(stopped).name} after step {trainer.progress.step} of {recipe.steps}, "
                f"saved {run.last}; go on with: {command}"
            )
            return 128 + stopped
        _write_report(run, task)
        progress = trainer.progress
        say(
            f"done: best validation {task.best_metric} {progress.best:.4f} {task.units[task.best_metric]} at step "
            f"{progress.best_step}; score it with: {_evaluate_command(run, args)}"
        )
        return 0


def without_names(facts: dict[str, Any]) -> dict[str, Any]:
    """Training facts with the number of scenes in place of their names, for reading."""
    counted = {"scenes": len(facts["scenes"])} if "scenes" in facts else {}
    teacher = {"teacher": without_names(facts["teacher"])} if "teacher" in facts else {}
    return facts | counted | teacher


def display_path(path: Path) -> Path:
    """The path as seen from the working directory, when it lies below it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _recipe(args: Any, scenes: int) -> Recipe:
    return Recipe(
        steps=args.steps or steps_for(args.epochs, scenes, args.batch_size),
        **{name: getattr(args, name) for name in Recipe.__dataclass_fields__ if name != "steps"},
    )


def _build_peer(task: Task, name: str) -> nn.Module:
    """A new network to train along with the student. Raises InputError for a name that is none."""
    names = {"teacher": task.teacher} | task.students
    if name not in names:
        raise InputError(f"--distill: there is no network {name!r} for a peer: choose of {', '.join(names)}")
    return build_model(names[name])


def _refreshing(
    task: Task, method: DistillationMethod, teacher: nn.Module | None, validation: Any, device: torch.device
) -> Callable[[nn.Module], None] | None:
    """What the method wants done with the network before each epoch: a look at the first validation pairs."""
    if not method.held_out:
        return None
    pairs = task.collate([validation[i] for i in range(min(method.held_out, len(validation)))])
    return partial(task.refresh, batch=to_device(pairs, device), method=method, teacher=teacher)


def _teacher_facts(path: Path) -> dict[str, Any]:
    facts = training_facts(path)
    return {
        "path": str(path),
        "sha256": file_digest(path),
        "dataset": facts.get("dataset"),
        "scenes": facts.get("scenes", []),
    }


def _open_run(run: RunFolder, args: Any, facts: dict[str, Any]) -> None:
    """Writes config.json, or adds this start to that of the run to go on with. Other processes wait for the main."""
    if distributed.is_main():
        present = run.present()
        now = {"flags": flags_record(args), "provenance": provenance()}
        if args.resume and run.config.exists():
            config = run.read_config()
            before = config.get("provenance", {}).get("machine", {}).get("threads")
            if before != (threads := torch.get_num_threads()):
                say(f"the run began with {before} threads and goes on with {threads}: last bits of numbers may differ")
            run.write_config(config | {"flags": now["flags"], "resumed": [*config["resumed"], now]})
        elif present:
            what = "add --resume to go on with it" if run.config.exists() else "it has no config.json to go on from"
            raise InputError(
                f"{run.path} already holds a run ({', '.join(present)}): {what}, or choose another folder with --out"
            )
        else:
            run.write_config({**now, "training": without_names(facts), "resumed": []})
    distributed.barrier()


def _write_report(run: RunFolder, task: Task) -> None:
    """Writes report.html from the run's own files: all of it, with what was before a resume. The main process does."""
    if distributed.is_main():
        records = [json.loads(line) for _, line in run.read_log()]
        content = training_report(str(run.path), run.read_config(), records, task.best_metric, task.units)
        write_atomically(run.report, content)
        say(f"curves and settings: {run.report}")


def _check_unchanged(last: Path, facts: dict[str, Any]) -> None:
    """Raises InputError when the data or the teacher are not those that the saved run had."""
    before = training_facts(last)
    if before["scenes"] != facts["scenes"]:
        raise InputError(
            f"the training scenes are no longer those of the run in {last.parent}: {len(before['scenes'])} then, "
            f"{len(facts['scenes'])} now; restore them, or start again with another --out"
        )
    if "teacher" in facts and before["teacher"]["sha256"] != facts["teacher"]["sha256"]:
        raise InputError(
            f"the teacher {facts['teacher']['path']} has changed since the run in {last.parent} began: restore it, or "
            f"start again with another --out"
        )


def _score_teacher(task: Task, net: nn.Module, path: Path, validation: Any, device: torch.device) -> None:
    """Prints how good the teacher is on the validation part, so that a broken one is seen at once."""
    for name, model in ((f"teacher {display_path(path)}", net), ("zero flow", task.baselines["zero"])):
        metrics = task.evaluate(model, validation, device, description="teacher").metrics
        say(f"{name} on the validation part: {metrics_line(metrics, task.units)}")


def _evaluate_command(run: RunFolder, args: Any) -> str:
    command = ["python", "evaluate.py", "--checkpoint", str(run.best), "--dataset", args.dataset]
    command += ["--data-root", str(args.data_root)] if args.data_root else []
    return shlex.join([*command, "--num-points", str(args.num_points)])
