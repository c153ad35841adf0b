"""The training loop: batches in; steps, evaluations and checkpoints out. What a step minimises is handed in."""

import contextlib
import json
import math
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lib.errors import InputError
from lib.tasks.task import Task
from lib.training import distributed
from lib.training.checkpoint import random_state, read_resume, restore_random_state, save_checkpoint
from lib.training.device import to_device
from lib.training.loading import SampleStream, load_batches
from lib.training.optim import Recipe, clip_gradients, learning_rate, make_optimizer, set_rate
from lib.training.run_folder import RunFolder, metrics_line, progress_bar, say
from models import synchronise_batch_norm

Step = Callable[[nn.Module, Any, float], dict[str, Tensor]]  # (net, batch, part of the steps done) -> named losses


class Interrupted(Exception):
    """An evaluation was asked to stop before its end."""


@dataclass
class Progress:
    """Where a run stands. Together with the weights, the optimizer and the random generators: everything."""

    step: int = 0  # steps done
    evaluated: int = 0  # the step of the last evaluation
    best: float | None = None  # None: nothing evaluated yet
    best_step: int = 0
    since_best: int = 0  # evaluations
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    sums: dict[str, float] = field(default_factory=dict)  # of the loss terms, over the steps since the last evaluation


class StopSignals:
    """While active, SIGTERM and Ctrl-C are only noted; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def seed_everything(seed: int, device: torch.device) -> None:
    """Seeds all global generators; on a CPU, asks torch for deterministic operators, which an exact resume needs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False


class Trainer:
    """One training run.

    task: what is trained. net: the network, on ``device``. step(net, batch, done): named scalars, "loss" is the one to
    minimise; net is the network or its data-parallel wrapper, done the part of the steps behind us. samples: read under
    keys (epoch, index). evaluate(net, interrupted): the metrics on the validation part; the checkpoint with the best
    ``task.best_metric`` is kept. facts: JSON-able, put into checkpoints. adapters: what the losses train besides the
    network, equal in all processes; kept in last.pt for resuming, never a part of the saved network.
    before_epoch(net): called before the first step of each epoch.
    """

    def __init__(
        self,
        task: Task,
        net: nn.Module,
        step: Step,
        samples: Dataset,
        evaluate: Callable[[nn.Module, Callable[[], bool]], dict[str, float]],
        recipe: Recipe,
        run: RunFolder,
        device: torch.device,
        facts: dict[str, Any],
        adapters: nn.Module | None = None,
        before_epoch: Callable[[nn.Module], None] | None = None,
    ):
        self.adapters = nn.Module() if adapters is None else adapters
        self.task, self.net, self.step, self.samples, self.evaluate = task, net, step, samples, evaluate
        self.recipe, self.run_folder, self.device, self.facts = recipe, run, device, facts
        self.before_epoch = before_epoch
        # A batch that the processes cannot share is refused now, not at the first step.
        SampleStream(len(samples), recipe.batch_size, 0, 0, 0, world=distributed.world_size())
        self.model = distributed.parallel(net)
        synchronise_batch_norm(self.adapters)  # for a network among them
        self.parameters = [*net.parameters(), *(p for p in self.adapters.parameters() if p.requires_grad)]
        self.optimizer = make_optimizer(recipe, self.parameters)
        self.progress = Progress()
        self.signals = StopSignals()
        self.clock = time.perf_counter()

    def restore(self) -> None:
        """Goes back to where last.pt stands. Raises InputError when that file is unfit."""
        weights, state = read_resume(self.run_folder.last)
        if {n: v.shape for n, v in weights.items()} != {n: v.shape for n, v in self.net.state_dict().items()}:
            raise InputError(
                f"{self.run_folder.last} holds another network than this run trains: start the run again in another "
                "folder"
            )
        self.net.load_state_dict(weights)
        self.adapters.load_state_dict(state.get("adapters", {}))  # files of older versions have none
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        self.progress = Progress(**state["progress"])
        if self.progress.best is not None and not math.isfinite(self.progress.best):  # so older versions said None
            self.progress.best = None

    def epoch(self, step: int) -> int:
        """Whole passes over the training samples within ``step`` steps."""
        return step * self.recipe.batch_size // len(self.samples)

    def finished(self) -> bool:
        """True when every step is done or patience is at its end."""
        out_of_patience = 0 < self.recipe.patience <= self.progress.since_best
        return out_of_patience or (self.progress.step >= self.recipe.steps and not self._evaluation_due())

    def run(self) -> int | None:
        """Trains to the end. Returns None there, or the signal's number when one stopped the run (which is then saved).

        Raises InputError, leaving all files as they were, when a loss or a gradient is not finite.
        """
        progress, recipe = self.progress, self.recipe
        keys = SampleStream(
            len(self.samples),
            recipe.batch_size,
            recipe.seed,
            progress.step,
            recipe.steps,
            distributed.rank(),
            distributed.world_size(),
        )
        if distributed.is_main():
            self.run_folder.start_logs(progress.evaluated)
        batches = load_batches(self.samples, keys, self.task.collate, recipe.workers, pin=self.device.type == "cuda")
        self.clock = time.perf_counter()
        bar = progress_bar(recipe.steps, "training", "step", progress.step)
        with self.signals, contextlib.closing(batches), bar:
            while not self.finished():
                if self._evaluation_due():
                    try:
                        self._evaluate()
                    except Interrupted:
                        self._save()
                        return self.signals.received or signal.SIGTERM
                    continue
                loss, stop = self._step(next(batches))
                bar.update()
                best = "-" if progress.best is None else f"{progress.best:.4f}"
                bar.set_postfix({"loss": f"{loss:.4g}", f"best {self.task.best_metric}": best})
                if stop:
                    self._save()
                    return self.signals.received or signal.SIGTERM
                if recipe.save_every and progress.step % recipe.save_every == 0:
                    self._save()
        return None

    def _evaluation_due(self) -> bool:
        step, every = self.progress.step, self.recipe.eval_every
        if step == self.progress.evaluated:
            return False
        return step == self.recipe.steps or self.epoch(step) // every > self.epoch(step - 1) // every

    def _step(self, batch: Any) -> tuple[float, bool]:
        """One optimisation step. Returns the loss over all processes and whether a signal asked any of them to stop."""
        progress = self.progress
        set_rate(self.optimizer, self.recipe, progress.step, self.epoch(progress.step))
        self.net.train()
        if self.before_epoch and (progress.step == 0 or self.epoch(progress.step) > self.epoch(progress.step - 1)):
            self.before_epoch(self.net)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp == "bf16"):
                terms = self.step(self.model, to_device(batch, self.device), progress.step / self.recipe.steps)
        except InputError as error:
            raise InputError(f"step {progress.step + 1}, samples {', '.join(batch.names)}: {error}") from error
        terms["loss"].backward()
        distributed.average_gradients(self.adapters)  # those of the network are averaged by its wrapper
        gradient = clip_gradients(self.recipe, self.parameters)
        values = torch.stack([value.detach().double() for value in (*terms.values(), gradient)]).cpu()

        # One exchange a step: may we go on, must we stop, and the losses' sums.
        flags = torch.tensor([not values.isfinite().all(), self.signals.received is not None], dtype=torch.float64)
        broken, stop, *sums = distributed.sum_over_processes(torch.cat([flags, values[:-1]])).tolist()
        if broken:
            names = [name for names in distributed.gather_objects(batch.names) for name in names]
            raise InputError(
                f"the loss or its gradient is not finite at step {progress.step + 1} (saved files stay as they are); "
                f"samples: {', '.join(names)}"
            )
        self.optimizer.step()

        progress.step += 1
        means = {name: value / distributed.world_size() for name, value in zip(terms, sums, strict=True)}
        for name, value in means.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        return means["loss"], stop > 0

    def _evaluate(self) -> None:
        """Scores the network, writes the log line, best.pt and last.pt, in an order that a kill in between cannot harm.

        The log is cut back to last.pt when a run goes on, and best.pt is then written again, so last.pt comes last.
        """
        progress = self.progress
        metrics = self.evaluate(self.net, lambda: self.signals.received is not None)
        steps = progress.step - progress.evaluated
        train = {name: value / steps for name, value in progress.sums.items()}
        is_best = self._is_better(metrics[self.task.best_metric])
        if is_best:
            progress.best, progress.best_step = metrics[self.task.best_metric], progress.step
        progress.since_best = 0 if is_best else progress.since_best + 1
        progress.metrics, progress.sums, progress.evaluated = metrics, {}, progress.step

        record = {
            "step": progress.step,
            "epoch": self.epoch(progress.step),
            "lr": learning_rate(self.recipe, progress.step - 1, self.epoch(progress.step - 1)),
            "train": train,
            "validation": metrics,
            "best": is_best,
            "seconds": round(time.perf_counter() - self.clock, 3),
        }
        self.clock = time.perf_counter()
        say(
            f"step {record['step']}  epoch {record['epoch']}  lr {record['lr']:.3g}  loss {train['loss']:.4f}  "
            f"validation: {metrics_line(metrics, self.task.printed)}{'  (best)' if is_best else ''}"
        )
        if distributed.is_main():
            self.run_folder.append(record)
            if is_best:
                save_checkpoint(self.run_folder.best, self.net, self._facts())
            self._save()
            scalars = {f"train/{name}": value for name, value in train.items()} | {"train/lr": record["lr"]}
            self.run_folder.add_scalars(progress.step, scalars | {f"validation/{k}": v for k, v in metrics.items()})

    def _is_better(self, value: float) -> bool:
        best = self.progress.best
        return best is None or (value < best if self.task.lower_is_better else value > best)

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint says about its training, as of now. Metrics are those of the last evaluation."""
        progress = self.progress
        now = {
            "step": progress.step,
            "epoch": self.epoch(progress.step),
            "evaluated_step": progress.evaluated,
            "validation": progress.metrics,
            "finished": self.finished(),
        }
        return json.loads(json.dumps(self.facts | now))  # a copy, and proof that a checkpoint holds plain values only

    def _save(self) -> None:
        if not distributed.is_main():
            return
        resume = {
            "optimizer": self.optimizer.state_dict(),
            "adapters": {name: value.cpu() for name, value in self.adapters.state_dict().items()},
            "random": random_state(),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.run_folder.last, self.net, self._facts(), resume)
