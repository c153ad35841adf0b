"""Results of runs: one JSON file each, read, grouped over seeds, and summed up as mean and standard deviation.

A result file is what evaluate.py --json writes (the score, also sample by sample) and, for a run of an experiment, the
keys "config" (the run's config.json) and "log" (the lines of its log.jsonl).
"""

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import InputError
from lib.files import write_atomically
from lib.tables.names import headline, is_student, scored_on

PROTOCOL = {"dataset", "split", "scenes"}


class Best(NamedTuple):
    """The metric that a task is judged by. better: "lower" or "higher"."""

    name: str
    better: str


@dataclass(frozen=True)
class Measured:
    """Mean over runs, and the sample standard deviation (n - 1), which a single run does not have."""

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """The mean and standard deviation of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Run:
    """One result. log: the lines of the training log; empty where the file holds none."""

    result: dict[str, Any]
    log: list[dict[str, Any]]


@dataclass
class Group:
    """Runs that differ by their seed alone. expected: the files a complete group has; runs: those that are there."""

    name: str
    expected: list[Path] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def first(self) -> dict[str, Any]:
        """The result of the first run; what all runs share is read from it."""
        return self.runs[0].result

    @property
    def trained(self) -> bool:
        """Whether there is a result, and it is a network's, not a baseline's."""
        return bool(self.runs) and "training" in self.first

    @property
    def student(self) -> bool:
        """Whether there is a result, and it is a student's."""
        return self.trained and is_student(self.first)

    def metric(self, name: str) -> Measured:
        """A metric over the runs."""
        return Measured.of([run.result["metrics"][name] for run in self.runs])

    def seconds_per_sample(self) -> float:
        """Inference time, s: the least over the runs, because other work on the machine can only add to it."""
        return min(run.result["seconds_per_sample"] for run in self.runs)

    def training_seconds(self) -> Measured | None:
        """Time of training and validation over the runs, s; None where a log is missing."""
        logs = [run.log for run in self.runs]
        return Measured.of([sum(line["seconds"] for line in log) for log in logs]) if all(logs) else None


def best_metric(result: dict[str, Any]) -> Best:
    """The metric that the result's task is judged by. Results that name none are of scene flow: EPE3D."""
    best = result.get("best_metric", {"name": "EPE3D", "better": "lower"})
    return Best(best["name"], best["better"])


def read_run(path: Path) -> Run:
    """The run of a result file. Raises InputError for a file that evaluate.py did not write, or a damaged log."""
    try:
        result = json.loads(path.read_text())
        metrics, best = result["metrics"], best_metric(result)
        numbers = [*metrics.values(), metrics[best.name], result["seconds_per_sample"]]
        if not all(isinstance(number, int | float) for number in numbers) or best.better not in ("lower", "higher"):
            raise ValueError
        if not (isinstance(result["task"], str) and set(metrics) == set(result["units"])):
            raise ValueError
        if not set(result.get("headline", [])) <= set(metrics):
            raise ValueError
        if not (set(result["protocol"]) >= PROTOCOL and isinstance(result.get("config", {}), dict)):
            raise ValueError
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no result: write it with evaluate.py --json") from error
    log = result.get("log", [])
    try:
        for line in log:
            float(line["seconds"]), float(line["step"]), float(line["validation"][best.name])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the log in {path} is damaged: add it again with experiments/join_run.py") from error
    return Run(result, log)


def join_run(folder: Path, path: Path) -> None:
    """Adds config.json and log.jsonl of a run's folder to its result file, as the keys "config" and "log".

    A file that is not there yet is made; it then holds these two alone. The file is replaced at once, and joining
    twice changes nothing. Raises InputError where one of the three files cannot be read or written.
    """
    parts: dict[Path, Any] = {path: {}}
    for source in [folder / "config.json", folder / "log.jsonl", *([path] if path.exists() else [])]:
        try:
            text = source.read_text()
            parts[source] = (
                [json.loads(line) for line in text.splitlines()] if source.suffix == ".jsonl" else json.loads(text)
            )
        except OSError as error:
            raise InputError(f"cannot read {source}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"{source} is damaged: make it again") from error
    if not isinstance(parts[path], dict):
        raise InputError(f"{path} holds several results: score one checkpoint a file")
    result = parts[path] | {"config": parts[folder / "config.json"], "log": parts[folder / "log.jsonl"]}
    write_atomically(path, as_text(result).encode())


def as_text(result: dict[str, Any]) -> str:
    """A result as JSON: a line a key, and in lists of records ("scenes", "log") a line a record."""

    def value_text(value: Any) -> str:
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            return "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {value_text(value)}" for key, value in result.items()) + "\n}\n"


def group_by_seed(paths: Iterable[Path]) -> list[Group]:
    """NAME-seed0.json, NAME-seed1.json, ... -> one group NAME, in the order of the first of each; other files alone.

    Files that do not exist are expected only. Raises InputError where the runs of a group were not scored alike, and
    where the results are of several tasks.
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
    check_one_task(list(groups.values()))
    return list(groups.values())


def check_one_task(groups: Sequence[Group]) -> None:
    """Raises InputError where the groups' results are of several tasks, or have other metrics: no table holds both."""
    there = [group for group in groups if group.runs]
    for group in there[1:]:
        for result, first in ((run.result, there[0].first) for run in group.runs):
            if result["task"] != first["task"]:
                raise InputError(
                    f"{there[0].name} is of {first['task']}, {group.name} of {result['task']}: make a table a task"
                )
            if headline(result) != headline(first):
                raise InputError(f"{there[0].name} and {group.name} have other metrics: score both with one version")


def _setting(result: dict[str, Any]) -> tuple:
    return result["task"], scored_on(result), result.get("parameters")
