"""The one scoring loop: samples in, records out; the task sums them up. Used while training and for every table."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from lib.errors import InputError
from lib.tasks.task import Record, Task
from lib.training import distributed
from lib.training.device import synchronise, to_device
from lib.training.engine import Interrupted
from lib.training.loading import load_batches
from lib.training.run_folder import progress_bar


class Score(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, float]
    records: list[Record]  # one a sample, in the data set's order: its name and what the task says of it
    seconds: float | None  # a sample, of the network alone; None where no network ran


@torch.no_grad()
def evaluate(
    task: Task,
    model: Any,
    samples: Dataset,
    device: torch.device,
    amp: str = "off",
    description: str = "evaluating",
    workers: int = 0,
    interrupted: Callable[[], bool] = lambda: False,
    observe: Callable[[Any, Any, Record], None] = lambda batch, prediction, record: None,
) -> Score:
    """Scores a network or a baseline on every sample, one at a time, with the evaluation draw of each.

    So the score depends on the model and the data alone: not on a batch size, on a random state, or on the number of
    processes (which share the samples; all of them get the whole score). A network is left in evaluation mode.
    amp "bf16" runs the network under autocast. The time is measured around the network with the device synchronised,
    after one call that is not counted. ``observe`` sees every sample of this process: a batch of one, the prediction on
    the CPU, and the record. Raises InputError for unusable predictions, and Interrupted once ``interrupted()`` is true
    in any process.
    """
    if len(samples) == 0:
        raise InputError("there is no sample to evaluate on")
    if isinstance(model, nn.Module):
        model.eval()
    mine = range(distributed.rank(), len(samples), distributed.world_size())
    records, seconds, stop = [], [], False
    batches = load_batches(samples, [[i] for i in mine], task.collate, workers, pin=device.type == "cuda")
    with contextlib.closing(batches), progress_bar(len(mine), description, "sample") as bar:
        for batch in batches:
            if stop := interrupted():
                break
            seen = to_device(batch, device)
            if not seconds:
                _predict(task, model, seen, device, amp)  # warm-up: first calls compile and allocate
            prediction, duration = _predict(task, model, seen, device, amp)
            record = {"name": batch.names[0], **task.score(prediction, batch)}
            records.append(record)
            observe(batch, to_device(prediction, torch.device("cpu")), record)
            seconds.append(duration)
            bar.update()

    parts = distributed.gather_objects((records, seconds, stop))
    if any(stop for _, _, stop in parts):
        raise Interrupted
    # Process r had samples r, r + W, r + 2 W ...
    records = [parts[i % len(parts)][0][i // len(parts)] for i in range(len(samples))]
    seconds = [value for _, values, _ in parts for value in values]
    return Score(task.summarise(records), records, sum(seconds) / len(seconds))


def _predict(task: Task, model: Any, batch: Any, device: torch.device, amp: str) -> tuple[Any, float]:
    """(prediction, seconds)."""
    synchronise(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        prediction = task.predict(model, batch)
    synchronise(device)
    return prediction, time.perf_counter() - start
