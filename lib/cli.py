"""What the scripts share on the command line: flags, checks of their values, and errors as one line."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from lib.errors import InputError
from lib.flags import number
from lib.ops import BACKENDS, describe_kernels, use_backend
from lib.tasks import DEFAULT_TASK, TASKS, Task, task_of
from lib.training import distributed
from lib.training.engine import seed_everything
from lib.training.run_folder import RunFolder, say
from models.files import read_checkpoint

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
        _fail("error: out of GPU memory: lower --batch-size (for scene flow also --num-points), or use --amp bf16", 2)
    except OSError as error:
        if error.errno not in USER_ERRORS:
            raise
        _fail(f"error: {error.filename or 'file system'}: {error.strerror}", 2)
    sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    who = f"process {distributed.rank()}: " if distributed.world_size() > 1 else ""
    print(who + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


class _Peek(argparse.ArgumentParser):
    """Looks at one or two flags before the script's own parser does, which says what is wrong with them."""

    def __init__(self):
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def chosen_task(argv: list[str] | None) -> Task:
    """The task that --task names: it decides which other flags there are, so it is read before them.

    With --resume the task of the run in --out counts where none is given.
    """
    parser = _Peek()
    parser.add_argument("--task")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out")
    try:
        given, _ = parser.parse_known_args(argv)
    except InputError:
        return TASKS[DEFAULT_TASK]
    name = given.task
    if name is None and given.resume and given.out and (config := RunFolder(Path(given.out)).config).exists():
        name = RunFolder(config.parent).read_config()["flags"].get("task")
    return TASKS.get(name or DEFAULT_TASK, TASKS[DEFAULT_TASK])  # an unknown one is refused by the script's own parser


def task_of_checkpoint(argv: list[str] | None, flags: tuple[str, ...] = ("--checkpoint",)) -> Task:
    """The task of the first checkpoint on the command line, for scripts that read one; else what --task names.

    A file that cannot be read is refused later, where all of it is read.
    """
    parser = _Peek()
    for flag in flags:
        parser.add_argument(flag, dest="file", nargs="+")
    try:
        given, _ = parser.parse_known_args(argv)
        record = read_checkpoint(given.file[0]).get("model") if given.file else None
        task = task_of(record["name"]) if isinstance(record, dict) and isinstance(record.get("name"), str) else None
    except InputError:
        task = None
    return task or chosen_task(argv)


def only_for(task: Task, served: tuple[str, ...], script: str) -> None:
    """Raises InputError when a script that serves some tasks is given a network of another one."""
    if task.name not in served:
        names = " and ".join(served)
        raise InputError(f"{script} serves {names}, and this is a network for {task.name}: score it with evaluate.py")


def add_task_flag(parser: Any, text: str = "what the network is to predict") -> None:
    """The flag that ``chosen_task`` has already read, for a parser or a group; text: its help."""
    parser.add_argument("--task", choices=list(TASKS), default=DEFAULT_TASK, help=text)


def add_data_flags(parser: argparse.ArgumentParser, task: Task, default: str) -> None:
    """Flags that say which samples."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=list(task.datasets), default=default, help="data set")
    group.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder that holds the processed data sets; not needed for the synthetic ones (default: the environment "
        "variable DATA_ROOT, which the container sets)",
    )
    task.add_flags(group)


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
    group.add_argument("--ops", choices=BACKENDS, default="auto", help="implementation of the operations in lib/ops")


def add_graph_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts that only infer."""
    parser.add_argument("--cuda-graph", action="store_true", help="record the network once and replay it: GPU only")


def parse_data(args: argparse.Namespace, task: Task) -> argparse.Namespace:
    """Fills in the defaults that depend on the data set and, for its folder, on the environment."""
    task.complete(args)
    if args.data_root is None and args.dataset in task.on_disk and os.environ.get("DATA_ROOT"):
        args.data_root = Path(os.environ["DATA_ROOT"])
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
    """Sets up the process as the flags say: operations, seeds, device, other processes. Yields the device."""
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
