"""What the scripts share on the command line: flags, checks of their values, and errors as one line."""

import argparse
import errno
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from lib.datasets.scene_flow import DATASETS
from lib.errors import InputError
from lib.ops import BACKENDS, describe_kernels, use_backend
from lib.training import distributed
from lib.training.engine import seed_everything
from lib.training.run_folder import RunFolder, say

# Errors of the system that the user can mend; any other OSError is a fault of the program and keeps its traceback.
USER_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}

# Flags that a resumed run may change: where it runs, where its data lie, and how long it goes on.
FREE_FLAGS = {"workers", "device", "out", "data_root", "epochs", "steps", "patience", "resume"}

DEFAULT_EPOCHS = 560


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help keeps the epilog's lines and shows defaults."""

    class _Help(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            says_it = action.default is None or action.default is False or action.default is argparse.SUPPRESS
            return action.help if says_it else f"{action.help} (default: %(default)s)"

    def __init__(self, **options: Any):
        super().__init__(formatter_class=self._Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def run_script(main: Callable[[], int]) -> NoReturn:
    """Runs a script's main function and ends the process with the status it returns.

    A user's mistake becomes one line on standard error and status 2, an interruption status 130.
    """
    warnings.formatwarning = lambda message, *_args, **_options: f"warning: {message}\n"
    warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the refusal that follows says it better
    warnings.filterwarnings("once" if distributed.is_main() else "ignore", category=UserWarning)
    try:
        status = main()
    except KeyboardInterrupt:
        _fail("interrupted", 128 + 2)
    except InputError as error:
        _fail(f"error: {error}", 2)
    except torch.OutOfMemoryError:
        _fail("error: out of GPU memory: lower --batch-size or --num-points, or use --amp bf16", 2)
    except OSError as error:
        if error.errno not in USER_ERRORS:
            raise
        _fail(f"error: {error.filename or 'file system'}: {error.strerror}", 2)
    sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    who = f"process {distributed.rank()}: " if distributed.world_size() > 1 else ""
    print(who + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def number(kind: type, low: float, high: float = math.inf, open_low: bool = False) -> Callable[[str], Any]:
    """An argparse type: an int or a finite float within [low, high], or (low, high] with ``open_low``."""
    name = {int: "a whole number", float: "a number"}[kind]
    bounds = f"{'above' if open_low else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high) or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"must be {name} {bounds}, got {text}")
        return value

    return parse


def add_data_flags(parser: argparse.ArgumentParser, datasets: Iterable[str], default: str) -> None:
    """Flags that say which samples."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=list(datasets), default=default, help="data set")
    group.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder that holds the processed data sets; not needed for the synthetic ones (default: the environment "
        "variable DATA_ROOT, which the container sets)",
    )
    group.add_argument(
        "--subset",
        choices=["full", "quarter"],
        help="quarter: every 4th training scene of ft3d (default: quarter for ft3d, else full)",
    )
    group.add_argument(
        "--num-scenes", type=number(int, 2), metavar="N", help="training scenes of a synthetic set (default: 512)"
    )
    group.add_argument("--num-points", type=number(int, 1), metavar="N", default=8192, help="points drawn per cloud")


def add_machine_flags(parser: argparse.ArgumentParser, workers: int | None) -> None:
    """Flags that say where and how to compute. workers: None for a script that reads no samples."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one")
    if workers is not None:
        group.add_argument(
            "--workers",
            type=number(int, 0),
            metavar="N",
            default=workers,
            help="processes that read samples ahead; 0 reads in the main process",
        )
    group.add_argument(
        "--amp", choices=["off", "bf16"], default="off", help="bf16 runs the network in bfloat16 where that is safe"
    )
    group.add_argument("--ops", choices=BACKENDS, default="auto", help="implementation of the point operations")


def add_graph_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts that only infer."""
    parser.add_argument("--cuda-graph", action="store_true", help="record the network once and replay it: GPU only")


def add_training_flags(parser: argparse.ArgumentParser, lr_step: int, out: str) -> None:
    """Flags of both training scripts."""
    group = parser.add_argument_group("training (the defaults are the published recipe)")
    group.add_argument(
        "--batch-size", type=number(int, 1), metavar="B", default=8, help="scenes a step, over all processes together"
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=number(int, 1),
        metavar="E",
        help=f"passes over the training scenes (default: {DEFAULT_EPOCHS})",
    )
    length.add_argument("--steps", type=number(int, 1), metavar="K", help="length in steps, instead of --epochs")
    group.add_argument("--lr", type=number(float, 0, open_low=True), default=1e-3, help="first learning rate of Adam")
    group.add_argument(
        "--lr-step",
        type=number(int, 1),
        metavar="E",
        default=lr_step,
        help="the learning rate changes every E epochs ...",
    )
    group.add_argument("--lr-gamma", type=number(float, 0, 1, open_low=True), default=0.5, help="... by this factor")
    group.add_argument("--lr-min", type=number(float, 0), default=1e-5, help="the learning rate never falls below this")
    group.add_argument("--weight-decay", type=number(float, 0), default=1e-4, help="L2 penalty of Adam")
    group.add_argument(
        "--augment",
        choices=["auto", "on", "off"],
        default="auto",
        help="auto: as published, on for ft3d and synthetic-things, off for the others",
    )
    group.add_argument(
        "--seed",
        type=number(int, 0, 2**31 - 1),
        default=0,
        help="of the initial weights, the order of the scenes and the drawn points",
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
    group.add_argument(
        "--eval-every",
        type=number(int, 1),
        metavar="E",
        default=1,
        help="epochs between evaluations on the validation part (always in float32)",
    )
    group.add_argument(
        "--save-every",
        type=number(int, 0),
        metavar="K",
        default=0,
        help="also save last.pt every K steps; 0: only at evaluations",
    )
    group.add_argument(
        "--patience",
        type=number(int, 0),
        metavar="N",
        default=0,
        help="stop after N evaluations without a new best; 0: never",
    )


def check_output(flag: str, path: Path, endings: Iterable[str]) -> None:
    """Raises InputError when a file to write has another ending, or cannot be written where it should be."""
    endings = list(endings)
    if path.suffix.lower() not in endings:
        raise InputError(f"{flag} {path}: the name must end in {' or '.join(endings)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{flag} {path}: its folder does not exist; create it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{flag} {path}: cannot be written there")


def parse_data(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in the defaults that depend on the data set and, for its folder, on the environment."""
    if args.subset is None:
        args.subset = "quarter" if args.dataset == "ft3d" else "full"
    if args.data_root is None and DATASETS[args.dataset].on_disk and os.environ.get("DATA_ROOT"):
        args.data_root = Path(os.environ["DATA_ROOT"])
    return args


def parse_training(
    parser: Parser, argv: list[str] | None, default_out: Callable[[argparse.Namespace], Path]
) -> argparse.Namespace:
    """The flags of a training script. With --resume, flags that are not given take the run's own values.

    Raises InputError when a flag that is given contradicts the run.
    """
    given = parser.parse_args(argv)
    out = given.out or default_out(given)
    run = RunFolder(out)
    recorded = run.read_config()["flags"] if given.resume and run.config.exists() else {}
    length_given = given.epochs is not None or given.steps is not None
    skipped = {"out", "resume"} | ({"epochs", "steps"} if length_given else set())
    parser.set_defaults(**{name: value for name, value in recorded.items() if name not in skipped})
    args = parse_data(parser.parse_args(argv))
    args.out = out
    if args.epochs is None and args.steps is None:
        args.epochs = DEFAULT_EPOCHS
    for name, value in flags_record(args).items():
        if name in recorded and name not in FREE_FLAGS and value != recorded[name]:
            flag = "--" + name.replace("_", "-")
            before = "not given" if recorded[name] is None else recorded[name]
            raise InputError(
                f"{flag} was {before} when the run in {out} began and is now {value}: leave it out to go on "
                f"with that run, or choose another folder with --out"
            )
    return args


def flags_record(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as JSON-able values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def choose_device(name: str) -> torch.device:
    """The device that --device means; with several processes on GPUs, each takes its own.

    Raises InputError for an unknown name or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (index and not index.isdecimal()) or name.endswith(":")):
        raise InputError(f"--device must be auto, cpu, cuda or cuda:N, got {name}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: no usable GPU on this machine; use --device cpu")
    number = distributed.local_rank() if distributed.world_size() > 1 else int(index or 0)
    if number >= torch.cuda.device_count():
        raise InputError(f"--device {name}: GPU {number} asked for, this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", number)


@contextmanager
def session(args: argparse.Namespace, seed: int = 0) -> Iterator[torch.device]:
    """Sets up the process as the flags say: point operations, seeds, device, other processes. Yields the device."""
    device = choose_device(args.device)
    kernels = describe_kernels(args.ops, device)
    deterministic = torch.are_deterministic_algorithms_enabled()
    seed_everything(seed, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.start(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    processes = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    say(f"device: {device} ({name}){processes}")
    if kernels:
        say(kernels)
    try:
        with use_backend(args.ops):
            yield device
    finally:
        torch.use_deterministic_algorithms(deterministic)
    distributed.finish()  # not after an error: the other processes may never arrive
