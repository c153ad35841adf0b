#!/usr/bin/env python
"""Makes one file of a finished run: adds its config.json and log.jsonl to its score.

FILE is what evaluate.py --json wrote. Where it is not there yet, it is made and holds config and log alone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from the checkout, nothing is installed

from lib.errors import InputError  # noqa: E402
from lib.tables.results import join_run  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="join_run.py", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("file", type=Path, metavar="FILE", help="the result file")
    args = parser.parse_args(argv)
    try:
        join_run(args.run, args.file)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
