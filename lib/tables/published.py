"""Published figures, to stand beside ours: experiments/TASK/published.json."""

import json
from pathlib import Path
from typing import NamedTuple

from lib.errors import InputError


class Published(NamedTuple):
    """The published figures of one table. units: metric -> unit, in the order of the figures.

    rows: the name of a group of runs -> the row's name for reading, and metric -> figure.
    """

    scored_on: str = ""
    units: dict[str, str] = {}
    rows: dict[str, tuple[str, dict[str, float]]] = {}


def read_published(path: Path, table: str) -> Published:
    """The figures for a table; none where there is no file, or nothing for that table.

    Raises InputError for a file of another form, and where a row has more or fewer figures than there are metrics.
    """
    if not path.exists():
        return Published()
    try:
        content = json.loads(path.read_text())
        units = content["units"]
        rows = {
            group: (row["row"], dict(zip(units, map(float, row["figures"]), strict=True)))
            for group, row in content["tables"].get(table, {}).items()
        }
        return Published(content["scored on"], units, rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: take it from the repository again") from error
