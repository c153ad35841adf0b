"""From scenes to samples: depth filter, ground, draws, augmentation, batches."""

import warnings

import numpy as np
import pytest
import torch

from lib.camera import FLYINGTHINGS3D_CAMERA
from lib.datasets.scene_flow import FlowPairs, Scene, collate, pairs
from lib.datasets.scene_flow.transforms import augment, draw, drop_ground, within_depth
from lib.errors import InputError
from tests.runs import run, write_ft3d


class Scenes:
    """A source of scenes held in memory."""

    def __init__(self, *clouds, names=None):
        self.clouds = clouds
        self.names = names or [f"scene {k}" for k in range(len(clouds))]

    def __len__(self):
        return len(self.clouds)

    def __getitem__(self, i):
        return Scene(self.names[i], *self.clouds[i], FLYINGTHINGS3D_CAMERA)


def clouds(n, seed=0, flow=1.0):
    rng = np.random.default_rng(seed)
    pc1 = rng.uniform((-5, -1, 3), (5, 3, 30), (n, 3)).astype(np.float32)
    return pc1, pc1 + rng.normal(0, flow, (n, 3)).astype(np.float32)


# ---- draws ----


def test_depth_filter_looks_at_both_clouds():
    pc1 = np.array([[0, 0, 34.9], [0, 0, 35], [0, 0, 30]], np.float32)
    pc2 = np.array([[0, 0, 34.9], [0, 0, 30], [0, 0, 36]], np.float32)
    np.testing.assert_array_equal(within_depth(pc1, pc2, 35.0), [True, False, False])
    pair = FlowPairs(Scenes((pc1, pc2)), 4)[0]
    assert (pair.xyz1[:, 2] == pc1[0, 2]).all() and (pair.xyz2[:, 2] == pc2[0, 2]).all()
    assert len(FlowPairs(Scenes((pc1, pc2)), None, max_depth=100.0)[0].xyz1) == 3


def test_drop_ground_is_strict_and_needs_both():
    heights1, heights2 = np.array([-1.5, -1.5, -1.4]), np.array([-1.5, -1.3, -1.5])
    pc1, pc2 = (np.stack([h, h, h], axis=1) for h in (heights1, heights2))
    np.testing.assert_array_equal(drop_ground(pc1, pc2), [False, True, True])


def rows_of(points, cloud):
    """Row numbers of points in a cloud of distinct rows."""
    where = {tuple(row): k for k, row in enumerate(cloud.tolist())}
    return [where[tuple(row)] for row in points.tolist()]


def test_the_two_clouds_are_drawn_independently_and_the_flow_goes_with_the_first():
    pc1, pc2 = clouds(500)
    pair = FlowPairs(Scenes((pc1, pc2)), 100)[0]
    rows1, rows2 = rows_of(pair.xyz1, pc1), rows_of(pair.xyz2, pc2)
    assert len(set(rows1)) == len(set(rows2)) == 100  # without replacement
    assert rows1 != rows2 and len(set(rows1) & set(rows2)) < 50  # 20 expected
    np.testing.assert_array_equal(pair.flow, pc2[rows1] - pc1[rows1])
    assert pair.xyz1.dtype == pair.xyz2.dtype == pair.flow.dtype == torch.float32
    assert pair.name == "scene 0" and pair.camera == FLYINGTHINGS3D_CAMERA


def test_fewer_rows_than_points_are_drawn_with_replacement():
    pc1, pc2 = clouds(30)
    pair = FlowPairs(Scenes((pc1, pc2)), 64)[0]
    assert pair.xyz1.shape == pair.xyz2.shape == (64, 3)
    assert set(rows_of(pair.xyz1, pc1)) <= set(range(30))


@pytest.fixture
def new_run():
    """As in a process that has warned of nothing yet."""
    pairs._right_to_warn.cache_clear()


FEW = (
    "scene {} has {} points within 35 m, fewer than the {} that are drawn: points of this scene, and of any other that "
    "has too few, are drawn more than once; a smaller --num-points avoids that"
)


def test_the_first_scene_of_too_few_points_is_named_once(new_run):
    scenes = Scenes(clouds(64), clouds(63, 1), clouds(40, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FlowPairs(scenes, 64)[0]
        FlowPairs(scenes, None)[1]
        assert not caught
        training, validation = FlowPairs(scenes, 64), FlowPairs(scenes, 50)
        for drawn in (training[0], training[0, 1], training[2], validation[2]):
            assert len(drawn.xyz1) in (64, 50)
    assert [str(warning.message) for warning in caught] == [FEW.format("scene 1", 63, 64)]


def test_the_warning_does_not_change_the_draw(new_run):
    pair = FlowPairs(Scenes(clouds(30)), 64)
    with pytest.warns(UserWarning, match="^scene scene 0 has 30 points"):
        first = pair[0]
    assert same(first, pair[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_warns_once_of_too_few_points(tmp_path, workers):
    """The processes that read ahead meet eight such scenes; the user sees one line."""
    root = write_ft3d(tmp_path, train=2, test=8)
    flags = ["--dataset", "ft3d", "--data-root", root, "--num-points", 999, "--device", "cpu", "--workers", workers]
    done = run("evaluate.py", "--baseline", "zero", *flags)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "fewer than" in line]
    assert len(lines) == 1, done.stderr
    name = lines[0].split()[2]
    assert name.startswith("ft3d/val/000000") and lines[0] == "warning: " + FEW.format(name, 200, 999)


@pytest.mark.parametrize("rows,count,distinct", [(50, 50, 50), (50, 20, 20)])
def test_draw_without_replacement_up_to_the_last_row(rows, count, distinct):
    assert len(set(draw(np.random.default_rng(0), rows, count).tolist())) == distinct


def test_all_rows_in_order_with_a_shuffled_target():
    pc1, pc2 = clouds(50)
    pair = FlowPairs(Scenes((pc1, pc2)), None)[0]
    np.testing.assert_array_equal(pair.xyz1, pc1)
    rows2 = rows_of(pair.xyz2, pc2)
    assert sorted(rows2) == list(range(50)) != rows2


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_evaluation_draw_depends_on_the_index_only():
    scenes = Scenes(*(clouds(300, k) for k in range(4)))
    once = FlowPairs(scenes, 64, augment=True, seed=1)
    again = FlowPairs(scenes, 64, augment=False, seed=2)
    first = [once[i] for i in range(4)]
    once[3, 1]  # a training draw in between changes nothing
    assert all(same(first[i], again[i]) and same(first[i], once[i]) for i in (3, 0, 2, 1))
    twins = FlowPairs(Scenes(clouds(300), clouds(300)), 64)
    assert not same(twins[0], twins[1])  # equal scenes, another index: another draw
    assert same(first[-1], once[-1]) and len(list(once)) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_draws_do_not_depend_on_workers(workers):
    pairs = FlowPairs(Scenes(*(clouds(300, k) for k in range(5))), 32, augment=True, seed=7)
    for indices in ([0, 1, 2, 3, 4], [(2, 4), (2, 0), (3, 1), (2, 3), (2, 2)]):
        loader = torch.utils.data.DataLoader(
            pairs, batch_size=2, sampler=indices, collate_fn=collate, num_workers=workers
        )
        batches = list(loader)
        assert [b.xyz1.shape[0] for b in batches] == [2, 2, 1]
        for tensors, index in zip(
            ((b.xyz1[k], b.xyz2[k], b.flow[k]) for b in batches for k in range(len(b.names))), indices, strict=True
        ):
            assert same(tensors, pairs[index])


def test_training_draws_are_stateless_and_differ_by_seed_and_epoch():
    scenes = Scenes(clouds(300), clouds(300))
    pairs = FlowPairs(scenes, 64, seed=5)
    assert same(pairs[7, 1], FlowPairs(scenes, 64, seed=5)[7, 1])
    others = (pairs[8, 1], pairs[7, 0], pairs[1, 7 % 2], FlowPairs(scenes, 64, seed=6)[7, 1], pairs[1])
    assert not any(same(pairs[7, 1], other) for other in others)
    assert not same(FlowPairs(scenes, 64, seed=0)[0, 0], pairs[0])  # nor is epoch 0 the evaluation draw


def test_collate_keeps_names_and_cameras():
    batch = collate([FlowPairs(Scenes(clouds(50), clouds(60, 1)), 16)[i] for i in (1, 0)])
    assert batch.xyz1.shape == batch.xyz2.shape == batch.flow.shape == (2, 16, 3)
    assert batch.names == ["scene 1", "scene 0"] and batch.cameras == [FLYINGTHINGS3D_CAMERA] * 2
    with pytest.raises(InputError, match="^clouds of a batch differ in size"):
        pairs = FlowPairs(Scenes(clouds(50), clouds(60)), None)
        collate([pairs[0], pairs[1]])


# ---- augmentation ----


def fit_affine(source, target):
    """matrix, shift of the exact affine map source -> target (row vectors)."""
    solution, *_ = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target, rcond=None)
    return solution[:3], solution[3]


def augmentations(count=300):
    pc1, pc2 = (c.astype(np.float64) for c in clouds(60))
    for seed in range(count):
        yield pc1, pc2, *augment(pc1, pc2, pc2[::-1], np.random.default_rng(seed))


def test_augmentation_ranges():
    scales, angles, shifts, target_shifts = [], [], [], []
    for pc1, pc2, xyz1, moved, xyz2 in augmentations():
        matrix, shift = fit_affine(pc1, xyz1)
        target_matrix, target_shift = fit_affine(pc2, moved)
        np.testing.assert_allclose(target_matrix, matrix, atol=1e-12)  # pc2 alone is shifted, never turned
        np.testing.assert_array_equal(xyz2, moved[::-1])
        scale = np.linalg.norm(matrix, axis=1)  # p -> (p * scale) @ rotation.T
        rotation = (matrix / scale[:, None]).T
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(rotation[1], (0, 1, 0), atol=1e-12)  # about y
        scales.append(scale)
        angles.append(np.degrees(np.arctan2(rotation[0, 2], rotation[0, 0])))
        shifts.append(shift)
        target_shifts.append(target_shift - shift)
    for values, low, high in ((scales, 0.95, 1.05), (angles, -10, 10), (shifts, -1, 1), (target_shifts, -0.3, 0.3)):
        values, width = np.array(values), high - low
        assert low <= values.min() < low + 0.05 * width and high - 0.05 * width < values.max() <= high
        assert abs(values.mean() - 0.5 * (low + high)) < 0.1 * width
    for values in (scales, shifts, target_shifts):  # one draw for each axis
        assert (np.ptp(values, axis=1) > 0).all()


def test_augmentation_scales_distances_by_five_percent_at_most():
    for pc1, _, xyz1, _, _ in augmentations(20):
        ratio = np.linalg.norm(np.diff(xyz1, axis=0), axis=1) / np.linalg.norm(np.diff(pc1, axis=0), axis=1)
        assert 0.95 <= ratio.min() and ratio.max() <= 1.05


def test_flow_is_recomputed_after_augmentation():
    pc1, pc2 = clouds(200)
    scenes = Scenes((pc1, pc2))
    plain, moved = FlowPairs(scenes, 64, seed=3)[2, 0], FlowPairs(scenes, 64, augment=True, seed=3)[2, 0]
    rows1, rows2 = rows_of(plain.xyz1, pc1), rows_of(plain.xyz2, pc2)  # the same rows are drawn with and without
    matrix, _ = fit_affine(pc1[rows1].astype(np.float64), moved.xyz1.numpy().astype(np.float64))
    target_matrix, target_shift = fit_affine(pc2[rows2].astype(np.float64), moved.xyz2.numpy().astype(np.float64))
    np.testing.assert_allclose(target_matrix, matrix, atol=1e-5)
    np.testing.assert_allclose(moved.xyz1 + moved.flow, pc2[rows1] @ target_matrix + target_shift, atol=1e-4)
    assert moved.xyz1.dtype == moved.xyz2.dtype == moved.flow.dtype == torch.float32
