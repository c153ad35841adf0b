"""What evaluate.py --json wrote about a network for scene flow: its scenes can be drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lib.errors import InputError

PROTOCOL = ("dataset", "split", "subset", "num_points", "amp")  # what a scene of an evaluation depends on


def read_score(path: Path) -> dict[str, Any]:
    """The content of the file. Raises InputError for anything else."""
    try:
        score = json.loads(path.read_bytes())
        other = score.get("task", "scene-flow")
        if other != "scene-flow":
            raise InputError(
                f"{path} scores a network for {other}: draw a sample with --checkpoint and --scene, or see the page of "
                f"evaluate.py --html"
            )
        protocol = score["protocol"]
        what = [protocol[name] for name in PROTOCOL]
        what += [(str(scene["name"]), float(scene["EPE3D"])) for scene in score["scenes"]]
        baseline = score.get("baseline")
        if baseline is None:
            what += [Path(score["checkpoint"])]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not what evaluate.py --json writes: evaluate again") from None
    if baseline is not None:
        raise InputError(
            f"{path} scores the baseline {baseline}, which has no network: give the evaluation of a checkpoint"
        )
    return score
