#!/usr/bin/env python
"""Makes the processed data sets from the original downloads, or writes the synthetic sets in the same layout."""

import argparse
import contextlib
import os
from pathlib import Path

from lib.cli import run_script
from lib.datasets.prepare import ft3d as prepare_ft3d
from lib.datasets.prepare import kitti as prepare_kitti
from lib.datasets.prepare import synthetic as prepare_synthetic
from lib.datasets.prepare.frames import Outcome, prepare
from lib.datasets.prepare.raw import RawFrames
from lib.datasets.prepare.street import StreetFrames
from lib.errors import InputError
from lib.files import write_atomically
from lib.flags import Parser, number
from lib.show.scene_flow.data_report import data_report, read_statistics
from lib.training.run_folder import progress_bar, say

EPILOG = """examples:
  python prepare_data.py ft3d RAW DATA --workers 8
      RAW: where the five archives FlyingThings3D_subset_{disparity,disparity_occlusions,disparity_change,flow,
      flow_occlusions}.tar.bz2 were extracted; DATA: the later --data-root
  python prepare_data.py kitti RAW DATA
      RAW: where data_scene_flow.zip and data_scene_flow_calib.zip were extracted
  python prepare_data.py synthetic DATA --dataset synthetic-things --scenes 200
      nothing to download; read it with --dataset ft3d --data-root DATA/synthetic-things
  python prepare_data.py synthetic DATA --dataset synthetic-lidar --scenes 400
      nothing to download; DATA/synthetic-lidar has the layout of KITTI's object benchmark

A frame is written whole or not at all. Starting again goes on: finished frames are checked and left as they are.
"""

SOURCES = {"ft3d": prepare_ft3d.open_raw, "kitti": prepare_kitti.open_raw}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    frames = (
        prepare_synthetic.SETS[args.dataset](args.scenes)
        if args.source == "synthetic"
        else SOURCES[args.source](args.raw)
    )
    base = args.out / frames.folder
    say(f"{args.source}: {len(frames.names)} frames into {base}")
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {base}: {error.strerror}") from error
    outcomes = []
    written = (
        frames.write(args.out, args.workers)
        if isinstance(frames, StreetFrames)
        else prepare(frames, args.out, args.workers)
    )
    work = contextlib.closing(written)  # so that Ctrl-C starts no further frame
    with progress_bar(len(frames.names), frames.folder, "frame") as bar, work as finished:
        for outcome in finished:
            outcomes.append(outcome)
            if outcome.unfit:
                say(f"left out {outcome.name}: {outcome.unfit}")
            bar.update()
    say(summary(frames, outcomes))
    done = [outcome.name for outcome in outcomes if not outcome.unfit]
    if args.report and done:
        write_report(frames, args.out, done, args.workers)
    unfit = [outcome for outcome in outcomes if outcome.unfit]
    if unfit:
        raise InputError(
            f"{len(unfit)} of {len(outcomes)} frames could not be prepared, the first is {unfit[0].name}: "
            f"{unfit[0].unfit}"
        )
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="prepare_data.py", description=__doc__, epilog=EPILOG)
    sources = parser.add_subparsers(dest="source", required=True, metavar="ft3d|kitti|synthetic")
    for name, what in (("ft3d", "the FlyingThings3D subset"), ("kitti", "KITTI Scene Flow 2015")):
        source = sources.add_parser(name, help=f"{what}, from its archives", description=f"Prepares {what}.")
        source.add_argument("raw", type=Path, metavar="RAW", help="folder that the archives were extracted into")
    source = sources.add_parser("synthetic", help="a procedural set", description="Writes a synthetic set as folders.")
    source.add_argument("--dataset", choices=list(prepare_synthetic.SETS), default="synthetic-things", help="which set")
    source.add_argument("--scenes", type=number(int, 1), metavar="N", required=True, help="training scenes to write")
    for source in sources.choices.values():
        source.add_argument("out", type=Path, metavar="OUT", help="folder for the processed data set; made if needed")
        source.add_argument(
            "--workers",
            type=number(int, 1),
            metavar="N",
            default=min(os.cpu_count() or 1, 8),
            help="frames prepared at the same time",
        )
        source.add_argument(
            "--report",
            action="store_true",
            help="then also write report.html beside the frames: statistics and pictures of the set",
        )
    args = parser.parse_args(argv)
    if args.report and args.source == "synthetic" and args.dataset == "synthetic-lidar":
        parser.error("--report shows scene flow: leave it out for synthetic-lidar")
    return args


def write_report(frames: RawFrames, out: Path, names: list[str], workers: int) -> None:
    """Writes report.html into the set's folder, from the files that are there now."""
    statistics = []
    with progress_bar(len(names), "report", "frame") as bar:
        for frame in read_statistics(frames, out, names, workers):
            statistics.append(frame)
            bar.update()
    path = out / frames.folder / "report.html"
    write_atomically(path, data_report(frames, out, names, statistics))
    say(f"report    {path}")


def summary(frames: RawFrames, outcomes: list[Outcome]) -> str:
    """Counts of frames and points, and of the frames skipped with their reason."""
    done = [outcome for outcome in outcomes if not outcome.unfit]
    points = [outcome.points for outcome in done]
    before = sum(outcome.finished_before for outcome in done)
    rows = [
        ("prepared", f"{len(done) - before} frames"),
        (
            "skipped",
            f"{before} finished before, {frames.incomplete} with pieces missing from the download, "
            f"{len(outcomes) - len(done)} unfit",
        ),
    ]
    if points:
        rows += [("points", f"{sum(points):,} in {len(points)} frames, {min(points):,} to {max(points):,} a frame")]
    return "\n".join(f"{name:<10}{value}" for name, value in rows)


if __name__ == "__main__":
    run_script(main)
