"""Reading a checkpoint file without running what is in it."""

import pickle
import struct
from pathlib import Path

import torch

from lib.ops import InputError

# What torch.load raises on bytes that are no whole checkpoint, depending on where it stumbles.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    struct.error,
)

CHECKPOINT_FORMAT = "scene-flow-distillation/1"


def read_checkpoint(path: str | Path) -> dict:
    """The dictionary in a file written by ``torch.save``, on the CPU. Only tensors and plain values are accepted.

    Raises InputError for a missing or unreadable file, one that is cut short, and one that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: refused, because it holds more than tensors and plain values (or is no checkpoint at all); "
            "save the state_dict alone"
        ) from None
    except PermissionError:
        raise InputError(f"{path}: not readable: check its permissions") from None
    except _DAMAGE:
        raise InputError(f"{path}: damaged or cut short: copy or download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dictionary")
    return content
