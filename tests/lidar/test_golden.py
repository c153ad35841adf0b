"""The golden values of the published PointPillars, reached through the loader of published states."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lib.losses.lidar import IGNORED, NEGATIVE, assign_targets, detection_loss
from models import PointPillars, load_model
from models.lidar.box_code import decode, turn_to_bin
from models.lidar.published import published_names
from tests.lidar.formula_weights import fill

STORED = dict(rtol=1e-6, atol=1e-6)  # of arrays stored in float32; the values are about 1
EXACT = dict(rtol=1e-9, atol=1e-9)  # of arrays stored in float64


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden/lidar/pointpillar.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def published_file(shared: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "pointpillar_7728.pth"
    torch.save({"model_state": fill(shared, "pointpillar"), "epoch": 80, "it": 1, "version": "pcdet"}, path)
    return path


@pytest.fixture(scope="module")
def cloud(shared: Path) -> torch.Tensor:
    path = shared / "data/KITTI_object/training/velodyne_reduced/000007.bin"
    return torch.from_numpy(np.fromfile(path, "<f4").reshape(-1, 4))


@pytest.fixture(scope="module")
def net(published_file: Path) -> PointPillars:
    """In float64, frozen."""
    return load_model(published_file).double()


@pytest.fixture(scope="module")
def output(net, cloud):
    with torch.no_grad():
        return net([cloud.double()], features=["pillars", "bev/0", "bev/1", "bev/2"])


def truth(golden):
    boxes = torch.from_numpy(golden["gt_boxes"])
    return boxes[:, :7], boxes[:, 7].long() - 1


@pytest.fixture(scope="module")
def targets(net, golden):
    boxes, labels = truth(golden)
    return assign_targets(net.assignment, [boxes], [labels])


def at_cells(maps: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """The columns of a map (1, C, H, W) at places (N, 2), y and x: (N, C)."""
    y, x = torch.from_numpy(places.astype(np.int64)).unbind(1)
    return maps[0][:, y, x].T


def check(values: torch.Tensor, expected: np.ndarray) -> None:
    tolerance = STORED if expected.dtype == np.float32 else EXACT
    torch.testing.assert_close(values.double(), torch.from_numpy(expected).double(), **tolerance)


def test_pillars(golden, output):
    assert np.array_equal(output.cells.places[:, 1:].numpy(), golden["voxel_coords"])
    assert np.array_equal(output.cells.counts.numpy(), golden["voxel_num_points"])
    check(output.features["pillars"][golden["pillar_rows"]], golden["pillar_features"])


def test_maps(net, golden, output):
    stages = [output.features[f"bev/{i}"] for i in range(3)]
    with torch.no_grad():
        joint = net.neck(stages)
    ups = [branch(stage) for branch, stage in zip(net.neck.branches, stages, strict=True)]
    known = dict(pillar=output.features["pillars"], bev=joint)
    known |= dict(cls=output.class_logits, box=output.box_codes, dir=output.direction_logits)
    known |= {f"stage{i}": stage for i, stage in enumerate(stages, 1)} | {f"up{i}": up for i, up in enumerate(ups, 1)}
    for name in ("stage1", "stage2", "stage3", "bev"):
        check(at_cells(known[name], golden[f"{name}_pos"]), golden[name])
    for name, numbers in zip(golden["summary_names"], golden["summary"], strict=True):
        values = known[str(name)].double()
        found = torch.stack([values.norm(), values.mean(), values.abs().max()])
        torch.testing.assert_close(found, torch.from_numpy(numbers), rtol=1e-9, atol=1e-9)


def test_head_and_decoded_boxes(net, golden, output):
    y, x = torch.from_numpy(golden["head_pos"].astype(np.int64)).unbind(1)
    rows = ((y * 216 + x) * 6)[:, None] + torch.arange(6)  # (500, 6)
    for name, values in (
        ("cls", output.class_logits),
        ("box", output.box_codes),
        ("dir", output.direction_logits),
    ):
        check(values[0][rows].flatten(1), golden[f"head_{name}"])
    boxes = decode(output.box_codes[0][rows], net.anchors[rows])
    yaw = turn_to_bin(boxes[..., 6], output.direction_logits[0][rows].argmax(-1), net.assignment.direction_offset)
    check(torch.cat((boxes[..., :6], yaw[..., None]), -1), golden["head_decoded"])
    y, x = torch.from_numpy(golden["anchor_pos"].astype(np.int64)).unbind(1)
    check(net.anchors.view(248, 216, 6, 7)[y, x], golden["anchors"])


def test_detections(net, golden, output):
    assert (output.class_logits.sigmoid().amax(2) > net.settings.min_score).sum() == golden["n_above_score"]
    (found,) = net.decode(output)
    assert found.classes == ("Car", "Pedestrian", "Cyclist")
    assert np.array_equal(found.labels.numpy(), golden["pred_labels"] - 1)
    check(found.scores, golden["pred_scores"])
    check(found.boxes[:, :6], golden["pred_boxes"][:, :6])
    assert np.abs(found.boxes[:, 6].numpy() - golden["pred_boxes"][:, 6]).max() < 1e-7  # theirs adds pi in float32


def test_targets(net, golden, targets):
    counts = []
    for label, anchors in enumerate(net.assignment.classes):
        own = targets.labels[0, anchors.rows]
        assert ((own == label) | (own < 0)).all()
        counts.append([(own >= 0).sum(), (own == IGNORED).sum(), (own == NEGATIVE).sum()])
    assert np.array_equal(counts, golden["target_counts"])
    assert np.array_equal(targets.positives.numpy(), np.sort(golden["target_pos_index"]))
    order = np.argsort(golden["target_pos_index"])
    assert np.array_equal(targets.labels[0, targets.positives], golden["target_pos_label"][order] - 1)
    check(targets.codes, golden["target_pos_reg"][order])


def test_loss(golden, output, targets):
    parts = detection_loss(output.class_logits, output.box_codes, output.direction_logits, targets)
    assert list(parts) == ["class", "box", "direction"]
    check(torch.stack([*parts.values(), sum(parts.values())]), golden["eval_loss"])


def test_float32_finds_the_same(published_file, golden, cloud):
    (found,) = load_model(published_file).detect([cloud])
    assert np.array_equal(found.labels.numpy(), golden["pred_labels"] - 1)
    assert np.abs(found.boxes.numpy() - golden["pred_boxes"]).max() < 1e-4
    assert np.abs(found.scores.numpy() - golden["pred_scores"]).max() < 5e-6


def test_training_step(published_file, golden, cloud):
    net = load_model(published_file).double().train().requires_grad_(True)  # it comes frozen
    output = net([cloud.double()])
    boxes, labels = truth(golden)
    targets = assign_targets(net.assignment, [boxes], [labels])
    parts = detection_loss(output.class_logits, output.box_codes, output.direction_logits, targets)
    sum(parts.values()).backward()
    check(torch.stack([*parts.values(), sum(parts.values())]).detach(), golden["train_loss"])
    theirs = published_names()
    grads = {theirs[name]: value.grad for name, value in net.named_parameters()}
    state = {theirs[name]: value for name, value in net.state_dict().items()}
    for values, kind in ((grads, "grad"), (state, "running")):
        for name, (norm, total) in zip(golden[f"{kind}_names"], golden[f"{kind}_norm_sum"], strict=True):
            value = values[str(name)]
            assert value.norm().item() == pytest.approx(norm, rel=1e-8, abs=1e-9), name
            assert value.sum().item() == pytest.approx(total, rel=1e-8, abs=1e-8 * norm), name
    assert set(grads) == set(golden["grad_names"].tolist())
