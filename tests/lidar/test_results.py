"""evaluate.py --results: result files of any detector, scored by KITTI's rules."""

import json
from pathlib import Path

import pytest

import evaluate
from lib.errors import InputError
from lib.tasks.kitti_scores import AVERAGE_PRECISIONS, metric_name

LABEL = "Car 0.00 0 -1.57 500.00 150.00 600.00 250.00 1.50 1.60 3.90 0.00 1.60 20.00 -1.57"


def write_frames(folder: Path, text: str, names: list[str]) -> Path:
    """Lines "<frame> <KITTI line>" as one file a frame."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.txt").write_text("")
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        with open(folder / f"{name}.txt", "a") as file:
            file.write(rest + "\n")
    return folder


def test_a_folder_of_results_scores_as_the_development_kit_does(shared, tmp_path, capsys):
    golden = shared / "golden/kitti_ap"
    names = [f"{frame:06d}" for frame in range(300)]
    labels = write_frames(tmp_path / "labels", (golden / "synthetic_labels.txt").read_text(), names)
    results = write_frames(tmp_path / "results", (golden / "synthetic_detections.txt").read_text(), names)
    out = tmp_path / "scores.json"
    flags = ["--task", "lidar-detection", "--results", str(results), "--labels", str(labels), "--json", str(out)]
    assert evaluate.main(flags) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert set(metrics) == set(AVERAGE_PRECISIONS)
    expected = json.loads((golden / "expected.json").read_text())["synthetic"]
    for metric in ("bbox", "aos", "bev", "3d"):
        for kind in ("Car", "Pedestrian", "Cyclist"):
            for points in ("R11", "R40"):
                for level, value in zip(("easy", "moderate", "hard"), expected[metric][kind][points], strict=True):
                    assert metrics[metric_name(kind, metric, level, points)] == pytest.approx(value, abs=1e-9)
    assert "300 scans" in capsys.readouterr().out


def folders(tmp_path: Path) -> tuple[Path, Path]:
    labels = write_frames(tmp_path / "labels", f"000001 {LABEL}\n000002 {LABEL}", ["000001", "000002"])
    results = write_frames(tmp_path / "results", f"000001 {LABEL} 0.9", ["000001", "000002"])
    return results, labels


def test_a_list_chooses_frames(tmp_path, capsys):
    results, labels = folders(tmp_path)
    (results / "000002.txt").unlink()
    (tmp_path / "list.txt").write_text("000001\n")
    flags = ["--task", "lidar-detection", "--results", str(results), "--labels", str(labels)]
    assert evaluate.main([*flags, "--frames", str(tmp_path / "list.txt"), "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scenes"] == [{"name": "000001", "labels": 1, "detections": 1}]
    assert result["metrics"]["Car/3d/easy/R11"] == pytest.approx(100 / 11)  # one object: slot 0 of 11


def no_result(results: Path, labels: Path) -> None:
    (results / "000002.txt").unlink()


def no_label(results: Path, labels: Path) -> None:
    (labels / "000002.txt").unlink()


def no_score(results: Path, labels: Path) -> None:
    (results / "000001.txt").write_text(LABEL + "\n")


def unknown_class(results: Path, labels: Path) -> None:
    (results / "000001.txt").write_text(LABEL.replace("Car", "Lorry") + " 0.9\n")


def short_label(results: Path, labels: Path) -> None:
    (labels / "000001.txt").write_text(" ".join(LABEL.split()[:14]) + "\n")


def not_a_number(results: Path, labels: Path) -> None:
    (results / "000001.txt").write_text(LABEL + " nan\n")


def no_files(results: Path, labels: Path) -> None:
    for path in labels.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (no_result, "000002.txt is missing.*empty file for a frame without detections"),
        (no_label, "000002.txt is a result for a frame that is not scored"),
        (no_score, "has 15 fields, it must have 16"),
        (unknown_class, "type 'Lorry'"),
        (short_label, "has 14 fields, it must have 15"),
        (not_a_number, "score"),
        (no_files, "holds no label file"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tmp_path, damage, message):
    results, labels = folders(tmp_path)
    damage(results, labels)
    with pytest.raises(InputError, match=message) as error:
        evaluate.main(["--task", "lidar-detection", "--results", str(results), "--labels", str(labels)])
    assert "\n" not in str(error.value)


def test_labels_are_asked_for(tmp_path):
    with pytest.raises(InputError, match="--results needs --labels"):
        evaluate.main(["--task", "lidar-detection", "--results", str(tmp_path)])
    with pytest.raises(InputError, match="go with --results"):
        evaluate.main(["--task", "lidar-detection", "--baseline", "nothing", "--labels", str(tmp_path)])
    with pytest.raises(InputError, match="is no folder"):
        evaluate.main(["--task", "lidar-detection", "--results", str(tmp_path / "a"), "--labels", str(tmp_path)])
