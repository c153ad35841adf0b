"""visualize.py: pictures and pages of all it takes, and one line for every mistake."""

import json
import struct

import numpy as np
import pytest
import torch

import evaluate
import visualize
from lib.cli import run_script
from lib.errors import InputError
from lib.show.scene_flow.view import View, colour_wheel, flow_colours, round_scale
from tests.runs import save_teacher

DATA = ["--dataset", "synthetic-drive", "--num-points", "256", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a network, its evaluation, one of a baseline, and what predict.py writes."""
    folder = tmp_path_factory.mktemp("files")
    save_teacher(folder / "net.pt")
    part = [*DATA, "--split", "validation"]
    assert evaluate.main(["--checkpoint", str(folder / "net.pt"), *part, "--json", str(folder / "score.json")]) == 0
    assert evaluate.main(["--baseline", "zero", *part, "--json", str(folder / "zero.json")]) == 0
    rng = np.random.default_rng(0)
    source = rng.uniform([5, -4, -2], [15, 4, 2], (300, 3)).astype(np.float32)  # velodyne: x forward, y left, z up
    flow = np.tile(np.float32([1.0, 0.0, 0.0]), (300, 1))
    np.savez(folder / "flow.npz", source=source, flow=flow)
    np.save(folder / "target.npy", source + flow)
    return folder


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_picture_of_a_data_set(files, tmp_path, capsys):
    out = tmp_path / "flow.png"
    flags = ["--checkpoint", str(files / "net.pt"), *DATA, "--scene", "1", "--out", str(out)]
    assert visualize.main(flags) == 0
    width, height = size_of(out.read_bytes())
    assert width > 1500 and height > 600
    assert "synthetic-drive/test/000001, EPE3D" in capsys.readouterr().out


def test_scenes_of_an_evaluation(files, tmp_path, capsys):
    score = json.loads((files / "score.json").read_text())
    epe = {scene["name"]: scene["EPE3D"] for scene in score["scenes"]}
    for wanted, name in (("best", min(epe, key=epe.get)), ("worst", max(epe, key=epe.get)), (list(epe)[2],) * 2):
        capsys.readouterr()
        out = ["--out", str(tmp_path / "a.png"), "--out", str(tmp_path / "a.html")]
        assert visualize.main([str(files / "score.json"), "--scene", wanted, *out]) == 0
        written = capsys.readouterr()
        assert written.out.count(f"{name}, EPE3D {epe[name]:.4f} m") == 2 and written.err == ""
        assert name in (tmp_path / "a.html").read_text() and size_of((tmp_path / "a.png").read_bytes())


def test_another_network_than_the_one_scored_is_said(files, tmp_path, capsys):
    other = save_teacher(tmp_path / "other.pt", seed=8)
    flags = ["--checkpoint", str(other), "--out", str(tmp_path / "a.png")]
    assert visualize.main([str(files / "score.json"), *flags]) == 0
    assert f"is {other} still the network that was scored?" in capsys.readouterr().err


def test_a_prediction_is_turned_into_the_projects_frame(files, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(visualize, "draw_flow", lambda view, title: seen.append(view) or b"")
    flags = ["--target", str(files / "target.npy"), "--axes", "velodyne", "--out", str(tmp_path / "a.png")]
    assert visualize.main([str(files / "flow.npz"), *flags]) == 0
    (view,) = seen
    assert np.allclose(view.flow, [0, 0, 1]) and np.allclose(view.warped, view.target, atol=1e-5)
    assert view.source[:, 2].min() > 4 and view.truth is None


MISTAKES = [
    (["--out", "{tmp}/a.jpg", "{files}/flow.npz"], "--out {tmp}/a.jpg: the name must end in .png or .html"),
    (["--out", "{tmp}/a", "{files}/flow.npz"], "--out {tmp}/a: the name must end in .png or .html"),
    (["--out", "{tmp}/no/a.png", "{files}/flow.npz"], "--out {tmp}/no/a.png: its folder does not exist"),
    (["--out", "{tmp}/folder.png", "{files}/flow.npz"], "--out {tmp}/folder.png: cannot be written there"),
    (["{files}/flow.npz"], "the following arguments are required: --out"),
    ([*"--out {tmp}/a.png".split()], "nothing to draw: give flow.npz of predict.py, the .json of evaluate.py, or"),
    (["{files}/target.npy"], "{files}/target.npy: give flow.npz of predict.py or the .json of evaluate.py"),
    (["{tmp}/none.npz"], "no file {tmp}/none.npz"),
    (["{tmp}/text.npz"], "{tmp}/text.npz is damaged or no .npz file of plain arrays: run predict.py again"),
    (["{tmp}/cut.npz"], "{tmp}/cut.npz is damaged or no .npz file of plain arrays: run predict.py again"),
    (["{tmp}/pickle.npz"], "{tmp}/pickle.npz is damaged or no .npz file of plain arrays: run predict.py again"),
    (["{tmp}/source.npz"], "{tmp}/source.npz holds no array flow: predict.py --out FILE.npz writes source and flow"),
    (["{tmp}/rows.npz"], "{tmp}/rows.npz: source has 300 rows and flow has 299; row i of flow is for row i of source"),
    (["{tmp}/flat.npz"], "{tmp}/flat.npz: array flow is float32 of shape (900,); it must be float32 of shape (n, 3)"),
    (["{tmp}/nan.npz"], "{tmp}/nan.npz: array flow has NaN or infinity"),
    (["{files}/flow.npz", "--target", "{files}/score.json"], "{files}/score.json: unknown ending .json; the formats"),
    (["{files}/flow.npz", "--target", "{tmp}/none.ply"], "no file {tmp}/none.ply"),
    (["{files}/flow.npz", "--axes", "north"], "argument --axes: invalid choice: 'north'"),
    (["{files}/flow.npz", "--scene", "3"], "--scene has no use with a .npz: leave it out"),
    (["{files}/flow.npz", "--checkpoint", "{files}/net.pt"], "--checkpoint has no use with a .npz: leave it out"),
    (["{files}/score.json", "--target", "{files}/target.npy"], "--target has no use without a .npz: leave it out"),
    (["{files}/zero.json"], "{files}/zero.json scores the baseline zero, which has no network: give the evaluation of"),
    (["{tmp}/other.json"], "{tmp}/other.json is not what evaluate.py --json writes: evaluate again"),
    (["{tmp}/text.json"], "{tmp}/text.json is not what evaluate.py --json writes: evaluate again"),
    (["{tmp}/none.json"], "cannot read {tmp}/none.json: No such file or directory"),
    (["{tmp}/scenes.json"], "synthetic-drive validation holds other scenes than {tmp}/scenes.json: give"),
    (["{files}/score.json", "--scene", "kitti/1"], "--scene kitti/1: synthetic-drive validation has scenes 0 to 31,"),
    (["{files}/score.json", "--num-points", "512"], "--num-points 512: {files}/score.json was scored with 256"),
    (["--checkpoint", "{files}/net.pt", *DATA, "--scene", "64"], "--scene 64: synthetic-drive test has scenes 0 to"),
    (["--checkpoint", "{files}/net.pt", *DATA, "--scene", "worst"], "--scene worst needs the .json of an evaluation"),
    (["--checkpoint", "{tmp}/none.pt", *DATA], "{tmp}/none.pt: no such checkpoint file"),
]


@pytest.mark.parametrize("flags, line", MISTAKES, ids=[" ".join(flags) or "nothing" for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(flags, line, files, tmp_path, capsys):
    source = np.ones((300, 3), np.float32)
    broken = {
        "source": {"source": source},
        "rows": {"source": source, "flow": source[1:]},
        "flat": {"source": source, "flow": source.ravel()},
        "nan": {"source": source, "flow": source * np.nan},
        "pickle": {"source": source, "flow": np.array([None])},
    }
    for name, arrays in broken.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "cut.npz").write_bytes((files / "flow.npz").read_bytes()[:2000])
    for name in ("text.npz", "text.json"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "other.json").write_text('{"epochs": 3}')
    score = json.loads((files / "score.json").read_text())
    (tmp_path / "scenes.json").write_text(json.dumps(score | {"scenes": score["scenes"][1:]}))
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    places = {"files": files, "tmp": tmp_path}
    given = [flag.format(**places) for flag in flags]
    needs_out = "--out" not in given and not line.startswith("the following")
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: visualize.main([*given, *(["--out", str(tmp_path / "a.html")] if needs_out else [])]))
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith(f"error: {line.format(**places)}") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name, line",
    [
        ("report.htm", "--html {tmp}/report.htm: the name must end in .html"),
        ("no/report.html", "--html {tmp}/no/report.html: its folder does not exist; create it first"),
    ],
)
def test_a_report_that_cannot_be_written_is_said_at_once(name, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "provenance", lambda: pytest.fail("evaluated"))
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: evaluate.main(["--baseline", "zero", *DATA, "--html", str(tmp_path / name)]))
    assert caught.value.code == 2 and capsys.readouterr().err == f"error: {line.format(tmp=tmp_path)}\n"


def test_colours_of_directions():
    """Opposite directions differ most, no motion is grey, and the wheel's rim shows what it says."""
    ahead, back, left = (
        flow_colours(np.array([v], np.float64), 1.0)[0].astype(int) for v in ([0, 0, 1], [0, 0, -1], [1, 0, 0])
    )
    still = flow_colours(np.zeros((1, 3)), 1.0)[0]
    assert np.ptp(still) <= 1
    assert np.abs(ahead - back).sum() > 200 and np.abs(ahead - left).sum() > 100
    assert (flow_colours(np.array([[0, 0, 5.0]]), 1.0) == ahead).all(), "longer than the scale is the full colour"
    assert (flow_colours(np.array([[0, 7.0, 1]]), 1.0) == ahead).all(), "the vertical part has no colour"
    wheel = colour_wheel(101).astype(int)
    assert np.abs(wheel[1, 50, :3] - ahead).max() < 6 and np.abs(wheel[50, 1, :3] - left).max() < 6
    assert wheel[0, 0, 3] == 0 and wheel[50, 50, 3] == 255


def test_thinning_keeps_rows_together():
    source = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    view = View("v", source, source / 10, source[:50], truth=source / 20)
    thin = view.thinned(100)
    assert np.array_equal(thin.flow, thin.source / 10) and np.array_equal(thin.truth, thin.source / 20)
    assert len(thin.source) == 100 and len(np.unique(thin.source[:, 0])) == 100 and len(thin.target) == 50
    assert thin.drawn() == "source: 100 of 1,000 points, target: all 50 points"
    assert thin.thinned(80).drawn() == "source: 80 of 1,000 points, target: all 50 points"
    assert View("v", source, source, truth=source).thinned(10).shows_truth and not thin.shows_truth


def test_a_report_is_on_one_checkpoint(tmp_path, files):
    with pytest.raises(InputError, match="--html reports on one checkpoint: leave --table out"):
        evaluate.main(["--table", str(files / "net.pt"), *DATA, "--html", str(tmp_path / "report.html")])


@pytest.mark.parametrize("flow", [[0, 0, 0], [0, 1e4, -30]], ids=["still", "wild"])
def test_odd_flows_are_drawn_too(flow, tmp_path):
    """One point; no motion; a prediction far out of the scene."""
    np.savez(tmp_path / "flow.npz", source=np.float32([[1, 2, 30]]), flow=np.float32([flow]))
    out = ["--out", str(tmp_path / "a.png"), "--out", str(tmp_path / "a.html")]
    with np.errstate(all="raise"):
        assert visualize.main([str(tmp_path / "flow.npz"), *out]) == 0
    assert size_of((tmp_path / "a.png").read_bytes())


def test_scales_are_round():
    assert round_scale(np.full(10, 0.634)) == 0.64 and round_scale(np.full(10, 23.01)) == 24.0
    assert round_scale(np.zeros(10)) == 1.0 and round_scale(np.array([])) == 1.0


def test_observing_an_evaluation_adds_up(files, tmp_path):
    """Bins hold every point once; their weighted mean is EPE3D; two processes' halves make the whole."""
    from lib.datasets.scene_flow.pairs import FlowPairs
    from lib.datasets.scene_flow.synthetic_drive import open_part
    from lib.evaluation import evaluate as score_of
    from lib.show.scene_flow.evaluation_report import Observations, merged
    from lib.tasks.scene_flow import SCENE_FLOW, nearest_flow

    pairs = FlowPairs(open_part("validation", None, 0), 256)
    seen, halves = Observations(), (Observations(), Observations())
    turn = iter(range(len(pairs)))

    def observe(batch, flow, metrics):
        seen.observe(batch, flow, metrics)
        halves[next(turn) % 2].observe(batch, flow, metrics)

    score = score_of(SCENE_FLOW, nearest_flow, pairs, torch.device("cpu"), observe=observe)
    for name in ("distance", "motion"):
        assert seen.points[name].sum() == 256 * len(pairs)
        mean = np.nansum(np.array(seen.mean_error(name)) * seen.share(name)) / 100
        assert mean == pytest.approx(score.metrics["EPE3D"], rel=1e-5)
    whole = merged(halves)
    assert all(np.allclose(whole.errors[name], seen.errors[name]) for name in seen.errors)
    ordered = sorted(scene["EPE3D"] for scene in score.records)
    for result in (seen, whole):
        assert [epe for epe, _ in result.best] == ordered[:3] and [epe for epe, _ in result.worst] == ordered[:-4:-1]
