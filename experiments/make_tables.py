#!/usr/bin/env python
"""Prints the table of an experiment, or of result files, and draws an experiment's plots.

The rows of an experiment are the runs of its script, grouped over seeds: mean and standard deviation (n - 1). The
published figures, where there are any, stand below ours. Rows that were not run are left out, and named on standard
error.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from the checkout, nothing is installed

from lib.errors import InputError  # noqa: E402
from lib.tables.formats import FORMATS, Row, experiment_rows, result_row  # noqa: E402
from lib.tables.plots import plot_all  # noqa: E402
from lib.tables.published import read_published  # noqa: E402
from lib.tables.results import Group, check_one_task, group_by_seed, read_run  # noqa: E402

EXPERIMENTS = (
    "scene_flow/synthetic",
    "scene_flow/methods",
    "scene_flow/pareto",
    "scene_flow/real",
    "scene_flow/longer",
    "scene_flow/kitti_teacher",
    "scene_flow/ft3d_teacher",
    "scene_flow/remaining",
    "scene_flow/first_report",
    "lidar/pointdistiller",
)
EPILOG = f"""examples:
  python experiments/make_tables.py scene_flow/synthetic --plots runs/plots
      the table of experiments/scene_flow/synthetic.sh from results/scene_flow/synthetic, and its plots; variables such
      as SEEDS or RESULTS mean what they mean to the script
  python experiments/make_tables.py results/scene_flow/demo/*.json
      a row a file, in the order given

experiments:
  {chr(10).join(EXPERIMENTS).replace(chr(10), chr(10) + "  ")}
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make_tables.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="+", metavar="EXPERIMENT | FILE", help="one experiment, or result files")
    parser.add_argument("--format", choices=list(FORMATS), default="markdown", help="default: markdown")
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


def files(paths: list[Path]) -> list[Row]:
    """A row a file. Raises InputError for files that are not there, and for results of several tasks."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"no such experiment or result: {', '.join(missing)} (see make_tables.py --help)")
    groups = [Group(path.stem, [path], [read_run(path)]) for path in paths]
    check_one_task(groups)
    return [result_row(group) for group in groups]


def experiment(name: str, plots: Path | None) -> list[Row]:
    """The rows of an experiment TASK/NAME; its plots go to a folder. Raises InputError where there is no row."""
    groups = group_by_seed(expected_results(name))
    task, _, table = name.partition("/")
    published = read_published(ROOT / "experiments" / task / "published.json", table)
    rows = experiment_rows(groups, published)
    missing = [group.name for group in groups if not group.runs]
    if not rows or (plots is not None and len(missing) == len(groups)):
        raise InputError(f"no run of this experiment has a result yet: start bash experiments/{name}.sh")
    if missing:
        print(f"not run: {', '.join(missing)}", file=sys.stderr)
    if plots is not None:
        written = plot_all(groups, published, plots, table)
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
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
