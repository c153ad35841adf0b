"""What a run writes and prints: its folder (config.json, log.jsonl, TensorBoard events), progress bars, lines."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import InputError
from lib.files import write_atomically
from lib.training import distributed

if TYPE_CHECKING:
    from tqdm import tqdm


def say(message: str) -> None:
    """Prints a line from the main process, above any progress bar."""
    if distributed.is_main():
        _tqdm().write(message, file=sys.stdout)
        sys.stdout.flush()


def progress_bar(total: int, description: str, unit: str, done: int = 0) -> "tqdm":
    """A bar with time left, in the main process and on a terminal only."""
    disable = None if distributed.is_main() else True  # None: tqdm hides the bar where there is no terminal
    return _tqdm()(
        total=total, initial=done, desc=description, unit=unit, disable=disable, dynamic_ncols=True, leave=False
    )


def _tqdm() -> "type[tqdm]":
    """Imported where a line is printed: a benchmark prints none, and runs on a machine that has torch alone."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise InputError("progress lines need tqdm: pip install tqdm") from error
    return tqdm


def metrics_line(metrics: dict[str, float], units: dict[str, str]) -> str:
    """ "EPE3D 0.0412 m  ACC3DS 0.857 ...": the metrics that ``units`` names, in its order."""
    return "  ".join(f"{name} {metrics[name]:.4f} {unit}".rstrip() for name, unit in units.items())


def display_path(path: Path) -> Path:
    """The path as seen from the working directory, when it lies below it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


class RunFolder:
    """The folder of one training run. Every method raises InputError when the system refuses to write."""

    def __init__(self, path: Path):
        self.path = path
        self.config, self.log = path / "config.json", path / "log.jsonl"
        self.last, self.best = path / "last.pt", path / "best.pt"
        self.report = path / "report.html"  # made of the others: on its own it is no run
        self._events: Any = None  # TensorBoard's; only training needs that package, so it is imported there

    def present(self) -> list[str]:
        """Names of the run's files that exist."""
        return [file.name for file in (self.config, self.last, self.best, self.log) if file.exists()]

    def read_config(self) -> dict[str, Any]:
        """config.json. Raises InputError when it is missing or damaged."""
        try:
            config = json.loads(self.config.read_text())
            if not isinstance(config["flags"], dict) or not isinstance(config["resumed"], list):
                raise ValueError
            return config
        except OSError as error:
            raise InputError(f"cannot read {self.config}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.config} is damaged: start the run again in another folder") from error

    def write_config(self, config: dict[str, Any]) -> None:
        """Creates the folder where needed and writes config.json."""
        with _refusals_named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, (json.dumps(config, indent=2) + "\n").encode())

    def read_log(self) -> list[tuple[int, str]]:
        """(step, line) of every whole line of log.jsonl. Raises InputError for a line that is damaged."""
        entries = []
        lines = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):  # a kill may have cut the last one
                try:
                    entries.append((int(json.loads(line)["step"]), line.decode()))
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{self.log} is damaged in line {number}: remove that line to go on") from error
        return entries

    def start_logs(self, step: int) -> None:
        """Cuts log.jsonl back to the lines up to ``step`` and begins an events file that hides later events.

        So a resumed run repeats no line, and a line that a kill left half written goes away.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        kept = [line for at, line in self.read_log() if at <= step]
        write_atomically(self.log, "".join(kept).encode())
        with _refusals_named(self.path):
            # Not SummaryWriter: its background thread dies of a full disk without a word to the caller.
            self._events = EventsWriter(str(self.path / "events"))
            self._events.write_event(
                Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
            )
            self._events.flush()

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line to log.jsonl, whole or not at all."""
        size = self.log.stat().st_size
        with _refusals_named(self.log):
            try:
                with open(self.log, "a") as file:
                    file.write(json.dumps(record) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                os.truncate(self.log, size)
                raise

    def add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Writes TensorBoard curves, name -> value."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with _refusals_named(self.path):
            for name, value in scalars.items():
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._events.flush()


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
