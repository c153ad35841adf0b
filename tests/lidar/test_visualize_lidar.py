"""visualize.py with a LiDAR detector: what predict.py wrote, a frame of a data set, and one line for every mistake."""

import json

import numpy as np
import pytest
from matplotlib import image

import evaluate
import predict
import visualize
from lib.cli import run_script
from lib.datasets.kitti_object.frames import write_calibration
from lib.datasets.synthetic_street import SyntheticStreet
from tests.lidar.detectors import save_detector


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a network, a scan, its calibration, an image of its size, and its boxes."""
    folder = tmp_path_factory.mktemp("files")
    frame = SyntheticStreet("test", 1)[0]
    frame.points.tofile(folder / "scan.bin")
    write_calibration(folder / "calib.txt", frame.calibration)
    image.imsave(folder / "image.png", np.zeros((375, 1242, 3)))
    flags = ["--checkpoint", save_detector(folder / "net.pt"), "--out", folder / "boxes.json", "--device", "cpu"]
    assert predict.main([str(folder / "scan.bin"), *map(str, flags)]) == 0
    return folder


def test_what_predict_wrote(files, tmp_path, capsys):
    flags = ["--cloud", files / "scan.bin", "--calib", files / "calib.txt", "--image", files / "image.png"]
    outs = ["--out", tmp_path / "a.png", "--out", tmp_path / "a.html", "--score", 0.6]
    assert visualize.main([str(word) for word in (files / "boxes.json", *flags, *outs)]) == 0
    scores = json.loads((files / "boxes.json").read_text())["scores"]
    kept = sum(score >= 0.6 for score in scores)
    assert 0 < kept < len(scores)
    assert f"scan.bin, {kept} of {len(scores)} boxes with a score of 0.6 or more" in capsys.readouterr().out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a.html").read_text()
    assert 'value="0.60"' in page and "data-truth checked" not in page and "points drawn" in page


def test_a_frame_of_a_data_set_with_the_same_boxes(files, tmp_path, monkeypatch):
    """The frame's points in the range give what predict.py found in the scan; the labels are the ground truth."""
    seen = []
    monkeypatch.setattr(visualize, "draw_scene", lambda scene, title, score: seen.append(scene) or b"")
    flags = ["--checkpoint", files / "net.pt", "--dataset", "synthetic-lidar", "--scene", "0", "--device", "cpu"]
    assert visualize.main([str(word) for word in (*flags, "--out", tmp_path / "a.png")]) == 0
    (scene,) = seen
    found = json.loads((files / "boxes.json").read_text())
    assert np.allclose(scene.detections.scores, found["scores"], atol=1e-5)
    assert np.allclose(scene.detections.boxes, found["boxes"], atol=1e-4)
    assert scene.truth is not None and len(scene.truth.scores) > 0 and scene.image is None
    assert (scene.truth.boxes[:, 0] < 35.84).all(), "objects outside of the range do not count"


def test_report_of_an_evaluation(files, tmp_path, monkeypatch):
    """evaluate.py --html: the page shows the scores of the JSON file beside it, and the frames of the part."""
    monkeypatch.setattr("lib.show.detection.evaluation_report.SHOWN", 1)
    flags = ["--checkpoint", files / "net.pt", "--dataset", "synthetic-lidar", "--split", "train", "--num-scenes", "3"]
    outs = ["--device", "cpu", "--json", tmp_path / "score.json", "--html", tmp_path / "report.html"]
    assert evaluate.main([str(word) for word in (*flags, *outs)]) == 0
    result, page = json.loads((tmp_path / "score.json").read_text()), (tmp_path / "report.html").read_text()
    assert (
        f"{result['metrics']['Car/bbox/moderate/R40']:.2f}</td>" in page and "synthetic-lidar train, 3 frames" in page
    )
    assert all(f"<td>{scene['name']}</td>" in page for scene in result["scenes"]) and len(result["scenes"]) == 3
    assert "pointpillars-small-16x" in page and page.count("<img src") == 2


MISTAKES = {
    "{files}/boxes.json": "boxes.json holds no points: give the scan with --cloud",
    "{files}/boxes.json --cloud {files}/none.bin": "no file {files}/none.bin",
    "{files}/boxes.json --cloud {files}/scan.bin --scene 1": "--scene has no use with a boxes.json: leave it out",
    "{files}/boxes.json --cloud {files}/scan.bin --image {files}/image.png": "--calib and --image belong together",
    "{files}/boxes.json --cloud {files}/scan.bin --calib {files}/calib.txt --image no.png": "no file no.png",
    "{tmp}/cut.json --cloud {files}/scan.bin": "{tmp}/cut.json is not what predict.py --out FILE.json writes for a",
    "--task lidar-detection": "nothing to draw: give boxes.json of predict.py, or --checkpoint",
    "{files}/scan.bin --task lidar-detection": "{files}/scan.bin: give boxes.json of predict.py",
    "--checkpoint {files}/net.pt --cloud {files}/scan.bin": "--cloud has no use without a boxes.json: leave it out",
    "--checkpoint {files}/net.pt --dataset synthetic-lidar --scene 900": "--scene 900: synthetic-lidar test has scenes",
    "--checkpoint {files}/net.pt --dataset synthetic-lidar --scene best": "--scene best needs the .json of an evaluat",
    "{tmp}/score.json": "{tmp}/score.json scores a network for lidar-detection: draw a sample with --checkpoint and",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, files, tmp_path, capsys):
    content = json.loads((files / "boxes.json").read_text())
    (tmp_path / "cut.json").write_text(json.dumps(content | {"scores": content["scores"][1:]}))
    (tmp_path / "score.json").write_text('{"task": "lidar-detection"}')
    before = sorted(tmp_path.rglob("*"))
    places = {"files": files, "tmp": tmp_path}
    given = [*flags.format(**places).split(), "--out", str(tmp_path / "a.html"), "--device", "cpu"]
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: visualize.main(given))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {MISTAKES[flags].format(**places)}")
    assert sorted(tmp_path.rglob("*")) == before
