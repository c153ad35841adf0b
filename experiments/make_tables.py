#!/usr/bin/env python
"""Turns results that ``evaluate.py --json`` wrote into a markdown table, a row a file, in the order given.

    python experiments/make_tables.py results/real_frames/*.json
"""

import json
import sys
from pathlib import Path


def row(path: Path) -> dict[str, str]:
    """The cells of one result: what was scored, on what, and the metrics."""
    result = json.loads(path.read_text())
    protocol = result["protocol"]
    parameters = f"{result['parameters'] / 1e6:.2f} M" if "parameters" in result else ""
    metrics = {f"{name} ({unit})" if unit else name: f"{result['metrics'][name]:.4f}"
               for name, unit in result["units"].items()}  # fmt: skip
    data = f"{protocol['dataset']} {protocol['split']}, {protocol['scenes']} scenes, {protocol['num_points']} points"
    return {"row": path.stem, "scored on": data, "parameters": parameters, **metrics}


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns -> a markdown table."""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(cells.values() for cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    paths = [Path(argument) for argument in sys.argv[1:]]
    missing = [str(path) for path in paths if not path.is_file()]
    if not paths or missing:
        print(f"error: no such result: {', '.join(missing) or '(none given)'}: evaluate.py --json writes them",
              file=sys.stderr)  # fmt: skip
        return 2
    print(markdown([row(path) for path in paths]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
