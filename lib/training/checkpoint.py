"""Checkpoint files: written atomically, read without running code, resumed exactly."""

import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.errors import InputError
from lib.files import write_atomically
from lib.provenance import PROJECT_ROOT
from models import CHECKPOINT_FORMAT, model_record
from models.files import read_checkpoint

CHECKPOINTS = PROJECT_ROOT / "checkpoints"


def save_checkpoint(path: Path, net: nn.Module, training: dict[str, Any], resume: dict[str, Any] | None = None) -> None:
    """Writes a file that ``models.load_model`` opens.

    training: JSON-able facts about how the network came to be. resume: what ``read_resume`` gives back.
    """
    content = {"format": CHECKPOINT_FORMAT, "model": model_record(net), "training": training}
    if resume is not None:
        content["resume"] = resume
    # Serialised in memory: torch's own writer does not report a full disk as an OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_resume(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(the network's state, what was given as ``resume``) of a run's last.pt. Raises InputError for an unfit file."""
    content = read_checkpoint(path)
    if content.get("format") != CHECKPOINT_FORMAT or "resume" not in content:
        raise InputError(f"{path} holds no training state to resume from: start the run again in another folder")
    return content["model"]["state_dict"], content["resume"]


def training_facts(path: Path) -> dict[str, Any]:
    """The "training" facts of a checkpoint; empty for a published state, which carries none."""
    content = read_checkpoint(path)
    return content.get("training", {}) if content.get("format") == CHECKPOINT_FORMAT else {}


def random_state() -> dict[str, Any]:
    """The state of every global random generator, in types that are read without unpickling code."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts back what ``random_state`` returned. GPU generators only where the number of GPUs is the same."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(state["python"])


def resolve_teacher(teacher: str, known: Mapping[str, str], folder: Path = CHECKPOINTS, task: str = "") -> Path:
    """The file that --teacher means: a known name looks in checkpoints/, anything else is a path.

    known: name -> the command that makes this teacher. task: the folder of the task's teachers in checkpoints/, "" for
    checkpoints/ itself. Raises InputError when there is no such file, or two.
    """
    if teacher not in known:
        path = Path(teacher)
        if path.is_dir():
            raise InputError(f"--teacher {path} is a folder: give the file, such as {path / 'best.pt'}")
        if not path.is_file():
            raise InputError(f"no teacher file {path}: give a path that exists, or one of {', '.join(known)}")
        return path
    folder = folder / task
    candidates = [folder / teacher / "best.pt", folder / f"{teacher}.pt"]
    found = [path for path in candidates if path.is_file()]
    if len(found) == 2:
        raise InputError(f"--teacher {teacher} could mean {found[0]} or {found[1]}: remove one, or give the path")
    if not found:
        raise InputError(
            f"no teacher {teacher}: neither {candidates[0]} nor {candidates[1]} exists; make it with: {known[teacher]}"
        )
    return found[0]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
