"""Every page in a real browser: it opens, draws, its controls work, it reports no error and asks for nothing."""

import json

import numpy as np
import pytest
import torch

import evaluate
import prepare_data
import train_student
import visualize
from lib.boxes import Detections
from lib.show.detection.scene import Scene
from lib.show.detection.view3d import detection_page
from lib.show.scene_flow.view import CLOUDS
from tests.browser import Browser, count
from tests.runs import TINY, save_teacher, write_kitti

DATA = ["--dataset", "synthetic-drive", "--num-points", "256", "--device", "cpu"]
POINTS = 300
DISPLAYED = """return document.querySelector(".plot").data.map(
    (trace) => ({shown: trace.visible, x: Array.from(trace.x), y: Array.from(trace.y), z: Array.from(trace.z)}))"""


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """source, flow, target: a wall in front of the sensor that comes nearer and goes left."""
    rng = np.random.default_rng(0)
    source = rng.uniform([-6, -3, 18], [6, 3, 20], (POINTS, 3)).astype(np.float32)
    flow = np.tile(np.float32([2.0, 0.5, -3.0]), (POINTS, 1))
    return source, flow, (source + flow)[rng.permutation(POINTS)]


@pytest.fixture
def flow_page(clouds, tmp_path):
    source, flow, target = clouds
    np.savez(tmp_path / "flow.npz", source=source, flow=flow)
    np.save(tmp_path / "target.npy", target)
    files = [str(tmp_path / name) for name in ("flow.npz", "target.npy", "flow.html")]
    assert visualize.main([files[0], "--target", files[1], "--out", files[2]]) == 0
    return tmp_path / "flow.html"


def displayed(browser) -> list[dict]:
    """The clouds on the page: whether shown, and points (n, 3) right, forward, up."""
    traces = browser.run(DISPLAYED)
    return [{"shown": t["shown"], "points": np.stack([t["x"], t["y"], t["z"]], axis=1)} for t in traces]


def on_screen(xyz: np.ndarray) -> np.ndarray:
    return np.stack([-xyz[:, 0], xyz[:, 2], xyz[:, 1]], axis=1)


def test_a_view_draws_and_its_controls_work(browser, clouds, flow_page):
    source, flow, target = clouds
    browser.open(flow_page)
    browser.wait(".view[data-drawn]")
    plot = browser.find(".plot")
    before, (static, aim, moving) = browser.pixels(plot), displayed(browser)
    assert (before.min(axis=2) < 200).sum() > 500, "a blank canvas"
    assert [static["shown"], aim["shown"], moving["shown"]] == [False, True, True]
    assert np.allclose(moving["points"], on_screen(source)) and np.allclose(aim["points"], on_screen(target))

    # a cloud's box hides it and shows it again
    dark = count(before, CLOUDS["target"])
    assert dark > 100
    for shown in (False, True):
        browser.find('[data-cloud="target"]').click()
        browser.wait_until(lambda shown=shown: (count(browser.pixels(plot), CLOUDS["target"]) > dark / 2) == shown)
    assert count(browser.pixels(plot), CLOUDS["source"]) == 0
    browser.find('[data-cloud="source"]').click()
    browser.find('[data-cloud="moving source"]').click()
    browser.wait_until(lambda: count(browser.pixels(plot), CLOUDS["source"]) > 100)
    browser.find('[data-cloud="source"]').click()
    browser.find('[data-cloud="moving source"]').click()

    # the colour of the moving cloud
    assert count(browser.pixels(plot), CLOUDS["warped source"]) == 0
    browser.find('[data-colour] option[value="cloud"]').click()
    browser.wait_until(lambda: count(browser.pixels(plot), CLOUDS["warped source"]) > 100)
    assert not browser.find('[data-key="flow"]').is_displayed()

    before = browser.pixels(plot)

    # Play moves the source onto the target; the slider goes half the way back
    browser.find("[data-play]").click()
    browser.wait_until(lambda: browser.find("output").text == "100 %" and browser.find("[data-play]").text == "Play")
    assert np.allclose(displayed(browser)[2]["points"], on_screen(source + flow), atol=1e-4)
    after = browser.pixels(plot)
    assert (np.abs(after - before).max(axis=2) > 40).sum() > 500
    browser.run("""const slider = document.querySelector("input[type=range]");
                   slider.value = 0.5; slider.dispatchEvent(new Event("input"));""")
    browser.wait_until(lambda: browser.find("output").text == "50 %")
    assert np.allclose(displayed(browser)[2]["points"], on_screen(source + flow / 2), atol=1e-4)

    browser.find('[data-camera="above"]').click()
    browser.wait_until(lambda: (np.abs(browser.pixels(plot) - after).max(axis=2) > 40).sum() > 500)
    browser.assert_quiet()


def test_hovering_tells_the_vector(browser, flow_page):
    browser.open(flow_page)
    browser.wait(".view[data-drawn]")
    browser.find('[data-cloud="target"]').click()
    browser.find('[data-colour] option[value="cloud"]').click()
    plot = browser.find(".plot")
    browser.wait_until(lambda: count(browser.pixels(plot), CLOUDS["warped source"]) > 100)
    pixels = browser.pixels(plot)
    green = np.abs(pixels - [0x00, 0x9E, 0x73]).max(axis=2) < 12
    rows, columns = np.nonzero(green[1:-1, 1:-1] & green[:-2, 1:-1] & green[2:, 1:-1] & green[1:-1, :-2])
    scale = pixels.shape[1] / plot.size["width"]
    for k in np.random.default_rng(0).permutation(len(rows))[:10]:  # a dot's neighbour may lie in front of it
        browser.hover(plot, columns[k] / scale, rows[k] / scale)
        if labels := browser.all(".hovertext"):
            break
    assert "flow (2.000, 0.500, -3.000) m" in labels[0].text and "length 3.640 m" in labels[0].text
    browser.assert_quiet()


def test_the_browser_holds_a_page_to_asking_for_nothing(browser, flow_page):
    """The check of the requests above can fail: a page that tries to ask is refused, aloud."""
    browser.open(flow_page)
    outcome = browser.driver.execute_async_script(
        "fetch('http://127.0.0.1:9/').then(() => arguments[0]('sent'), (error) => arguments[0]('refused'))"
    )
    assert outcome == "refused" and "Content Security Policy" in " ".join(browser.console())


def test_report_of_an_evaluation(browser, tmp_path):
    teacher = save_teacher(tmp_path / "net.pt")
    files = ["--json", str(tmp_path / "score.json"), "--html", str(tmp_path / "report.html")]
    flags = ["--split", "train", "--num-scenes", "6"]
    assert evaluate.main(["--checkpoint", str(teacher), *DATA, *flags, *files]) == 0
    score = json.loads((tmp_path / "score.json").read_text())
    browser.open(tmp_path / "report.html")
    text = browser.find("body").text
    assert f"{score['metrics']['EPE3D']:.4f} m" in text and "synthetic-drive train" in text
    assert "6 scenes, 256 points drawn of each cloud" in text
    ordered = sorted(score["scenes"], key=lambda scene: scene["EPE3D"])
    titles = [element.text for element in browser.all(".view b")]
    assert [title.split(":")[0] for title in titles] == [ordered[k]["name"] for k in (0, 1, 2, -1, -2, -3)]
    assert len(browser.all("svg")) >= 2 and all(chart.size["height"] > 100 for chart in browser.all("section > svg"))
    browser.run("document.querySelector('.view').scrollIntoView()")
    browser.wait(".view[data-drawn]")
    assert len(browser.all(".view[data-drawn]")) < 6, "views out of sight wait"
    browser.find('[data-colour] option[value="error"]').click()
    assert browser.find('[data-key="error"]').is_displayed()
    assert (browser.pixels(browser.find(".plot")).min(axis=2) < 200).sum() > 300
    browser.assert_quiet()


@pytest.mark.filterwarnings("ignore:.*the full set has")
def test_report_of_a_training_run(browser, tmp_path):
    flags = [*TINY, "--data-root", str(write_kitti(tmp_path / "data")), "--gamma", "0", "--student", "tiny"]
    out = ["--batch-size", "2", "--out", str(tmp_path / "run")]
    assert train_student.main([*flags, *out, "--steps", "3"]) == 0
    first = (tmp_path / "run/report.html").read_text()
    assert train_student.main([*flags, *out, "--steps", "6", "--resume"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    best = min(record["validation"]["EPE3D"] for record in records)
    browser.open(tmp_path / "run/report.html")
    text = browser.find("body").text
    assert f"{best:.4f} m\nEPE3D" in text and "resumed, " in text and "resumed, " not in first
    titles = [element.text for element in browser.all("section svg text")]
    assert {"loss", "loss_gt", "EPE3D (m)", "ACC2D", "learning rate"} <= set(titles)
    assert "--student tiny" in text
    assert (tmp_path / "run/report.html").stat().st_size < 400_000
    curve = browser.pixels(browser.find("section svg"))
    assert count(curve, "#0072b2") > 50
    browser.assert_quiet()


def test_report_of_a_prepared_set(browser, tmp_path):
    assert (
        prepare_data.main(
            ["synthetic", str(tmp_path), "--dataset", "synthetic-drive", "--scenes", "3", "--workers", "2", "--report"]
        )
        == 0
    )
    path = tmp_path / "synthetic-drive/report.html"
    frames = [np.load(path.parent / f"{i:06d}/pc1.npy") for i in range(3)]
    nearest = min(np.load(file)[:, 2].min() for file in path.parent.glob("*/pc?.npy"))
    browser.open(path)
    text = browser.find("body").text
    assert "3\nframes" in text and f"{sum(map(len, frames)):,}\npoints" in text
    assert f"z, forward {nearest:.2f}" in text
    assert browser.run("return Array.from(document.images, (image) => image.naturalWidth > 300)") == [True] * 3
    browser.assert_quiet()


def test_a_large_cloud_is_thinned_and_its_name_cannot_break_the_page(browser, tmp_path):
    cloud = np.random.default_rng(1).uniform(5, 15, (20_000, 3)).astype(np.float32)
    path = tmp_path / "<b>&<script>alert(1).npz"
    np.savez(path, source=cloud, flow=np.full_like(cloud, 0.5))
    assert visualize.main([str(path), "--out", str(tmp_path / "flow.html")]) == 0
    assert (tmp_path / "flow.html").stat().st_size < 6_000_000
    browser.open(tmp_path / "flow.html")
    browser.wait(".view[data-drawn]")
    assert browser.find("h1").text == browser.find(".view b").text == path.name
    assert "source: 8,192 of 20,000 points drawn" in browser.find("body").text
    assert [len(cloud["points"]) for cloud in displayed(browser)] == [8192, 0, 8192]
    assert not browser.all('[data-cloud="target"]')
    browser.assert_quiet()


def test_controls_of_a_page_of_boxes(browser, tmp_path):
    classes = ("Pedestrian", "Cyclist", "Car")
    rows = torch.tensor([[12, 2, -0.7, 4, 2, 2, 0.1], [20, -4, -0.7, 4, 2, 2, 0], [15, -3, -0.7, 1, 1, 2, 0]])
    found = Detections(rows, torch.tensor([0.9, 0.5, 0.2]), torch.tensor([2, 2, 0]), classes)
    truth = Detections(rows[:2], torch.ones(2), torch.tensor([2, 1]), classes)
    points = np.random.default_rng(0).uniform((2, -10, -1.7, 0), (40, 10, 1, 1), (500, 4))
    (tmp_path / "a.html").write_bytes(detection_page(Scene("a", points, found, truth), "title"))
    browser.open(tmp_path / "a.html")
    browser.wait(".view[data-drawn]")
    traces = """return document.querySelector(".plot").data.map((trace) => [trace.visible ?? true, trace.x.length,
                Array.from(trace.text ?? []).join(" ")])"""
    kinds = ["points", "truth", "truth faces", *(f"{name} {part}" for name in classes for part in ("edges", "faces"))]
    before = dict(zip(kinds, browser.run(traces), strict=True))
    assert browser.find("output").text == "0.30: 2 of 3 boxes"
    assert before["points"][1] == 500 and before["truth"][1] == 2 * 13 * 3 and before["Car edges"][1] == 2 * 13 * 3
    assert before["Pedestrian edges"][1] == 0 and "ground truth: <b>Cyclist</b> 1.00" in before["truth faces"][2]
    assert before["Car faces"][1] == 16 and "<b>Car</b> 0.90" in before["Car faces"][2]
    browser.run("""const slider = document.querySelector("input[type=range]");
                   slider.value = 0.1; slider.dispatchEvent(new Event("input"));""")
    browser.find("[data-truth]").click()
    after = dict(zip(kinds, browser.run(traces), strict=True))
    assert browser.find("output").text == "0.10: 3 of 3 boxes"
    assert after["Pedestrian edges"][1] == 13 * 3 and after["Pedestrian faces"][1] == 8
    assert [after[kind][0] for kind in ("truth", "truth faces", "Car edges")] == [False, False, True]
    browser.find('[data-colour] option[value="reflectance"]').click()
    browser.find('[data-camera="above"]').click()
    browser.assert_quiet()
