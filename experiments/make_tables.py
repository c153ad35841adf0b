#!/usr/bin/env python
"""Turns results that evaluate.py --json wrote into a table, or the runs of an experiment into its table and plots.

The rows of an experiment are those that its script makes, grouped over seeds: mean and standard deviation (n - 1),
the reports' figures below ours where they have any, and rows that were not run said to be so.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from the checkout, nothing is installed

from lib.cli import Parser, run_script  # noqa: E402
from lib.errors import InputError  # noqa: E402
from lib.tables.formats import FORMATS, Cell, full_row, plain_row, report_row  # noqa: E402
from lib.tables.plots import plot_all  # noqa: E402
from lib.tables.results import Group, group_by_seed, read_run  # noqa: E402

EXPERIMENTS = (
    "synthetic",
    "methods",
    "pareto",
    "real",
    "longer",
    "kitti_teacher",
    "ft3d_teacher",
    "remaining",
    "first_report",
)
EPILOG = f"""examples:
  python experiments/make_tables.py synthetic --plots runs/plots
      the table of experiments/synthetic.sh from results/synthetic, and its plots; variables such as SEEDS or RESULTS
      mean what they mean to the script. Others: {", ".join(EXPERIMENTS[1:])}
  python experiments/make_tables.py results/demo/*.json
      a row a file, in the order given
"""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="make_tables.py", description=__doc__, epilog=EPILOG)
    parser.add_argument("what", nargs="+", metavar="EXPERIMENT | FILE", help="one experiment, or results")
    parser.add_argument("--format", choices=list(FORMATS), default="markdown")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also plot the experiment, as PNG and SVG")
    args = parser.parse_args(argv)
    if args.what[0] in EXPERIMENTS:
        if len(args.what) > 1:
            raise InputError(f"one experiment at a time: {args.what[0]} or {' '.join(args.what[1:])}")
        rows = experiment(args.what[0], args.plots)
    elif args.plots:
        raise InputError(f"--plots needs an experiment: {', '.join(EXPERIMENTS)}")
    else:
        rows = files([Path(name) for name in args.what])
    print(FORMATS[args.format](rows))
    return 0


def files(paths: list[Path]) -> list[dict[str, Cell]]:
    """A row a file. Raises InputError for files that are not there."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"no such result: {', '.join(missing)}: evaluate.py --json writes them")
    return [plain_row(Group(path.stem, [path], [read_run(path)])) for path in paths]


def experiment(name: str, plots: Path | None) -> list[dict[str, Cell]]:
    """The rows of an experiment; its plots go to a folder."""
    groups = group_by_seed(expected_results(name))
    reports = json.loads((ROOT / "experiments/reports.json").read_text()).get(name, {})
    rows = []
    for group in groups:
        rows.append(full_row(group))
        if group.name in reports:
            rows.append(report_row(group.name, reports[group.name], list(rows[-1])))
    if plots is not None:
        if not any(group.runs for group in groups):
            raise InputError(f"nothing to plot: no run of experiments/{name}.sh has a result yet")
        written = plot_all(groups, reports, plots, name)
        print(f"plots: {', '.join(map(str, written)) or 'none, no student has a result yet'}", file=sys.stderr)
    return rows


def expected_results(name: str) -> list[Path]:
    """The results that experiments/NAME.sh makes, in its order: the script is the only list of the table's rows."""
    script = f"experiments/{name}.sh"
    environment = {**os.environ, "LIST": "1"}
    done = subprocess.run(["bash", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{script} lists no runs: {done.stderr.strip()}")
    words = shlex.split(done.stdout)
    return [ROOT / path for flag, path in itertools.pairwise(words) if flag == "--json"]


if __name__ == "__main__":
    run_script(main)
