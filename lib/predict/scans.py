"""The objects in one scan, or in each scan of a folder: from a user's clouds to files of boxes."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lib.boxes import Detections
from lib.clouds.axes import AXES
from lib.clouds.files import READERS
from lib.errors import InputError
from lib.predict.box_files import write_boxes
from lib.predict.lidar import ScanSettings, View, check_scan, crop_to_view, detect, read_scan, read_view
from lib.predict.sequence import check_results, frames_in, note_settings
from lib.training.checkpoint import file_digest


class BoxSettings(NamedTuple):
    """How boxes are predicted. score: detections with a lower one are left out.

    calib: a calibration file, or a folder with one for each frame, <frame>.txt. image: a PNG, a folder of them, or the
    image's size as WIDTHxHEIGHT. Both or neither: with them only points that the camera sees are used.
    """

    scan: ScanSettings
    score: float
    amp: str
    calib: Path | None = None
    image: str | None = None


class Found(NamedTuple):
    """What was found in a scan of so many points, and the seconds it took."""

    detections: Detections
    points: int
    seconds: float


def predict_scan(
    net: nn.Module, scan: Path, out: Path, checkpoint: Path, settings: BoxSettings, device: torch.device
) -> None:
    """One scan, told at length."""
    made = _predict(net, scan, out, checkpoint, settings, device)
    axes = settings.scan.axes
    rows = [
        ("axes", f"{axes} ({AXES[axes][0]})"),
        ("points", f"{made.points}" + (" in the camera's view" if settings.calib else "")),
        ("found", _described(made.detections)),
        ("time", f"{made.seconds:.3f} s for this scan (network, first scan of the process, {device})"),
        ("written", f"{out}"),
    ]
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def predict_folder(
    net: nn.Module,
    folder: Path,
    out: Path,
    ending: str,
    checkpoint: Path,
    settings: BoxSettings,
    device: torch.device,
) -> None:
    """Every scan of a folder, a line each, into out/<frame> with the given ending.

    Scans that an earlier start finished are left as they are.
    """
    scans = frames_in(folder, out, "boxes")
    if not scans:
        raise InputError(f"--batch {folder}: it holds no cloud; the formats are {', '.join(READERS)}")
    noted = {"checkpoint": file_digest(checkpoint), **settings.scan._asdict(), "score": settings.score}
    noted |= {"amp": settings.amp, "calib": str(settings.calib), "image": str(settings.image), "ending": ending}
    check_results(out, noted, "boxes", ending)
    seconds = []
    for scan in scans:
        file = out / f"{scan.stem}{ending}"
        if file.exists() and file.stat().st_mtime_ns >= scan.stat().st_mtime_ns:
            print(f"{scan.name}: finished before")
            continue
        if not seconds:
            note_settings(out, noted)
        try:
            made = _predict(net, scan, file, checkpoint, settings, device, f"{scan.name}: ")
        except InputError as error:
            raise InputError(str(error) if str(scan) in str(error) else f"{scan}: {error}") from None
        seconds.append(made.seconds)
        print(f"{scan.name}: {_described(made.detections)}; {made.seconds:.3f} s", flush=True)
    rows = [("scans", f"{len(seconds)} predicted, {len(scans) - len(seconds)} finished before")]
    if seconds:
        rows.append(("time", f"{np.median(seconds):.3f} s a scan, the median (network, {device})"))
    rows.append(("written", f"{out}"))
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def view_of(scan: Path, settings: BoxSettings) -> View | None:
    """The camera beside a scan, as calib and image say. Raises InputError for files that are not there or unfit."""
    if settings.calib is None or settings.image is None:
        return None
    calib = settings.calib / f"{scan.stem}.txt" if settings.calib.is_dir() else settings.calib
    folder = Path(settings.image)
    return read_view(calib, str(folder / f"{scan.stem}.png") if folder.is_dir() else settings.image)


def _predict(
    net: nn.Module,
    scan: Path,
    out: Path,
    checkpoint: Path,
    settings: BoxSettings,
    device: torch.device,
    where: str = "",
) -> Found:
    """Reads a scan, warns about what looks wrong, finds objects, writes them. where: begins each warning."""
    points = read_scan(scan, settings.scan)
    view = view_of(scan, settings)
    if view is not None:
        points = crop_to_view(points, view, settings.scan)
    for line in check_scan(points, net.range, settings.scan):
        print(f"warning: {where}{line}", file=sys.stderr)
    try:
        found, seconds = detect(net, points, device, settings.scan, settings.amp)
    except InputError as error:
        raise InputError(f"{checkpoint} cannot be used on this scan ({error}): are its weights finite?") from None
    found = found.take(found.scores >= settings.score)
    about: dict[str, Any] = {"cloud": scan.name, "checkpoint": str(checkpoint), "network": net.name}
    write_boxes(out, found, points, settings.scan, view, about)
    return Found(found, len(points), seconds)


def _described(found: Detections) -> str:
    """How many of each class, and the best score."""
    if len(found.labels) == 0:
        return "nothing"
    counts = Counter(found.classes[label] for label in found.labels.tolist())
    return ", ".join(f"{counts[name]} {name}" for name in found.classes if counts[name]) + (
        f"; best score {float(found.scores.max()):.2f}"
    )
