"""The README's table of methods says what the code holds."""

import re
from pathlib import Path

from lib.losses.distill import METHODS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_table_lists_every_method_with_its_default_place_and_weight():
    section = README.split("## Distillation methods")[1].split("\n## ")[0]
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): (row[-2].strip("`") or None, float(row[-1].removeprefix("gamma "))) for row in rows}
    assert table == {name: (method.place, method.weight) for name, method in METHODS.items()}
    assert list(table) == list(METHODS) == [method.name for method in METHODS.values()]
