"""Results of evaluate.py --json: read, grouped over seeds, and summed up as mean and standard deviation."""

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.evaluation import UNITS

PROTOCOL = {"dataset", "split", "scenes", "num_points"}


@dataclass(frozen=True)
class Measured:
    """Mean over runs, and the sample standard deviation (n - 1), which a single run does not have."""

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """The mean and standard deviation of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass
class Group:
    """Runs that differ by their seed alone. expected: the files a complete group has; runs: those that are there."""

    name: str
    expected: list[Path] = field(default_factory=list)
    runs: list["Run"] = field(default_factory=list)

    @property
    def first(self) -> dict[str, Any]:
        """The result of the first run; what all runs share is read from it."""
        return self.runs[0].result

    def metric(self, name: str) -> Measured:
        """A metric over the runs."""
        return Measured.of([run.result["metrics"][name] for run in self.runs])

    def seconds_per_pair(self) -> float:
        """Inference time, s: the least over the runs, because other work on the machine can only add to it."""
        return min(run.result["seconds_per_pair"] for run in self.runs)

    def training_seconds(self) -> Measured | None:
        """Time of training and validation over the runs, s; None where a log is missing."""
        logs = [run.log for run in self.runs]
        return Measured.of([sum(line["seconds"] for line in log) for log in logs]) if all(logs) else None


@dataclass(frozen=True)
class Run:
    """One result, and the lines of its log.jsonl where that lies beside it."""

    result: dict[str, Any]
    log: list[dict[str, Any]]


def read_run(path: Path) -> Run:
    """A result and the log NAME.log.jsonl beside it. Raises InputError for a file that evaluate.py did not write."""
    log = path.with_name(path.name.removesuffix(".json") + ".log.jsonl")
    try:
        result = json.loads(path.read_text())
        numbers = [*(result["metrics"][name] for name in UNITS), result["seconds_per_pair"]]
        if not (all(isinstance(number, int | float) for number in numbers) and PROTOCOL <= set(result["protocol"])):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no result: write it with evaluate.py --json") from error
    try:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        for line in lines:
            float(line["seconds"]), float(line["step"]), float(line["validation"]["EPE3D"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} is damaged: copy the run's log.jsonl again") from error
    return Run(result, lines)


def group_by_seed(paths: Iterable[Path]) -> list[Group]:
    """NAME-seed0.json, NAME-seed1.json, ... -> one group NAME, in the order of the first of each; other files alone.

    Files that do not exist are expected only. Raises InputError where the runs of a group were not scored alike.
    """
    groups: dict[str, Group] = {}
    for path in dict.fromkeys(paths):
        name = re.sub(r"-seed\d+$", "", path.stem)
        group = groups.setdefault(name, Group(name))
        group.expected.append(path)
        if path.is_file():
            run = read_run(path)
            if group.runs and _setting(run.result) != _setting(group.first):
                raise InputError(f"{path} was scored on other data, or is of another network, than the other seeds")
            group.runs.append(run)
    return list(groups.values())


def scored_on(result: dict[str, Any]) -> str:
    """The data of a score, for reading."""
    protocol = result["protocol"]
    return f"{protocol['dataset']} {protocol['split']}, {protocol['scenes']} scenes, {protocol['num_points']} points"


def _setting(result: dict[str, Any]) -> tuple:
    return scored_on(result), result.get("parameters")
