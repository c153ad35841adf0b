"""Readers and parts of the data sets on disk. Unfit data is in test_datasets_bad_input.py."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from lib.camera import FLYINGTHINGS3D_CAMERA
from lib.datasets.scene_flow import AUGMENTED, DATASETS, FlowPairs, ft3d, kitti, open_scenes
from lib.datasets.scene_flow.processed import cut_validation
from lib.errors import InputError


def clouds(n, seed=0, flow=1.0):
    rng = np.random.default_rng(seed)
    pc1 = rng.uniform((-5, -1, 3), (5, 3, 30), (n, 3)).astype(np.float32)
    return pc1, pc1 + rng.normal(0, flow, (n, 3)).astype(np.float32)


def write(folder: Path, pc1, pc2):
    folder.mkdir(parents=True)
    np.save(folder / "pc1.npy", pc1)
    np.save(folder / "pc2.npy", pc2)


@pytest.fixture
def ft3d_root(tmp_path):
    """25 training scenes and 3 of the test part; x and z stored negated."""
    for split, count in (("train", 25), ("val", 3)):
        for k in range(count):
            write(tmp_path / ft3d.FOLDER_NAMES[0] / split / f"{k:07d}", *(c * (-1, 1, -1) for c in clouds(40, k)))
    return tmp_path


@pytest.fixture
def kitti_root(tmp_path):
    """Five frames: one that is not evaluated, three of the training hundred, one of the test part."""
    for frame in ("000000", "000002", "000003", "000007", "000199"):
        write(tmp_path / "KITTI_processed_occ_final" / frame, *clouds(40))
    return tmp_path


@pytest.fixture(autouse=True)
def quiet_counts():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the full set has.*")
        yield


def names(*arguments, **keywords):
    return [name.rsplit("/", 1)[1] for name in open_scenes(*arguments, **keywords).names]


# ---- readers ----


def test_ft3d_sign_rule_and_camera(ft3d_root):
    scene = open_scenes("ft3d", "test", ft3d_root)[1]
    pc1, pc2 = clouds(40, 1)
    np.testing.assert_array_equal(scene.pc1, pc1)
    np.testing.assert_array_equal(scene.pc2, pc2)
    assert scene.pc1.dtype == scene.pc2.dtype == np.float32
    assert (scene.name, scene.camera) == ("ft3d/val/0000001", FLYINGTHINGS3D_CAMERA)


def test_kitti_keeps_signs_drops_ground_and_has_its_own_camera(tmp_path):
    pc1 = np.array([[1, -1.5, 5], [2, -1.5, 6], [3, -1.3, 7], [4, -1.4, 8], [5, 1.0, 60]], np.float32)
    pc2 = np.array([[1, -1.6, 5], [2, -1.3, 6], [3, -1.5, 7], [4, -1.5, 8], [5, 1.0, 61]], np.float32)
    for frame in ("000002", "000141"):
        write(tmp_path / "kitti_processed" / frame, pc1, pc2)
    scene = open_scenes("kitti", "all", tmp_path)[0]
    np.testing.assert_array_equal(scene.pc1, pc1[1:])  # only row 0 lies below -1.4 m in both clouds
    np.testing.assert_array_equal(scene.pc2, pc2[1:])
    camera = scene.camera
    assert (camera.f, camera.cx, camera.cy) == (-721.5377, 609.5593, 172.854)
    assert (camera.p03, camera.p13, camera.p23) == (44.85728, 0.2163791, 0.002745884)


def test_float64_files_are_read_as_float32(tmp_path):
    pc1, pc2 = (c.astype(np.float64) for c in clouds(10))
    write(tmp_path / "kitti_processed" / "000002", pc1, pc2)
    scene = open_scenes("kitti", "all", tmp_path)[0]
    assert scene.pc1.dtype == np.float32 and scene.pc1.flags.c_contiguous


def test_fortran_ordered_files(tmp_path):
    pc1, pc2 = clouds(10)
    write(tmp_path / "kitti_processed" / "000002", np.asfortranarray(pc1), pc2)
    np.testing.assert_array_equal(open_scenes("kitti", "all", tmp_path)[0].pc1, pc1)


def test_root_may_be_the_folder_itself(ft3d_root, kitti_root):
    inside = ft3d_root / ft3d.FOLDER_NAMES[0]
    assert names("ft3d", "train", inside) == names("ft3d", "train", ft3d_root)
    assert names("kitti", "all", kitti_root / "KITTI_processed_occ_final") == names("kitti", "all", kitti_root)


def test_names_open_no_file(ft3d_root):
    for path in ft3d_root.rglob("*.npy"):
        path.unlink()
    assert len(open_scenes("ft3d", "train", ft3d_root).names) == 23


# ---- parts ----


def test_ft3d_parts(ft3d_root):
    ids = [f"{k:07d}" for k in range(25)]
    assert names("ft3d", "train", ft3d_root) == ids[:23]
    assert names("ft3d", "validation", ft3d_root) == ids[23:]
    assert names("ft3d", "test", ft3d_root) == ids[:3]  # of the folder val/
    assert open_scenes("ft3d", "test", ft3d_root)[0].name.startswith("ft3d/val/")


def test_quarter_is_every_fourth_before_validation_is_cut(ft3d_root):
    assert names("ft3d", "train", ft3d_root, "quarter") == [f"{k:07d}" for k in range(0, 24, 4)]
    assert names("ft3d", "validation", ft3d_root, "quarter") == ["0000024"]
    assert len(names("ft3d", "test", ft3d_root, "quarter")) == 3


def test_full_ft3d_counts():
    ids = [f"{k:07d}" for k in range(19640)]
    assert [len(ft3d.part_ids(ids, part, "full")) for part in ("train", "validation")] == [19440, 200]
    assert [len(ft3d.part_ids(ids, part, "quarter")) for part in ("train", "validation")] == [4710, 200]
    assert set(ft3d.part_ids(ids, "train", "full")).isdisjoint(ft3d.part_ids(ids, "validation", "full"))


def test_full_kitti_split_is_100_and_42():
    present = [f"{k:06d}" for k in range(200)]
    parts = {part: kitti.part_frames(part, present) for part in ("train", "validation", "test", "all")}
    assert [len(parts[part]) for part in ("train", "validation", "test", "all")] == [90, 10, 42, 142]
    assert parts["train"] + parts["validation"] + parts["test"] == parts["all"] == sorted(parts["all"])
    assert len(kitti.frame_table()) == 200 and "000000" not in parts["all"]


def test_kitti_parts_do_not_move_when_frames_are_missing(kitti_root):
    assert names("kitti", "all", kitti_root) == ["000002", "000003", "000007", "000199"]
    assert names("kitti", "train", kitti_root) == ["000002", "000003"]
    assert names("kitti", "validation", kitti_root) == ["000007"]
    assert names("kitti", "test", kitti_root) == ["000199"]


@pytest.mark.parametrize("count,held_out", [(2, 1), (9, 1), (10, 1), (20, 2), (1999, 199), (2000, 200), (9999, 200)])
def test_validation_block(count, held_out):
    everything = [str(k) for k in range(count)]
    train, validation = cut_validation(everything)
    assert train + validation == everything and len(validation) == held_out


def test_count_warning_names_both_counts(ft3d_root, kitti_root):
    for dataset, part, root, found, full in (
        ("ft3d", "train", ft3d_root, 25, 19640),
        ("ft3d", "test", ft3d_root, 3, 3824),
        ("kitti", "all", kitti_root, 5, 200),
    ):
        with pytest.warns(UserWarning, match=f"holds {found} scenes, the full set has {full}$"):
            open_scenes(dataset, part, root)


def test_table_of_data_sets():
    assert tuple(DATASETS) == ("ft3d", "kitti", "synthetic-things", "synthetic-drive")
    assert AUGMENTED == ("ft3d", "synthetic-things")


# ---- real frames ----


def test_real_flyingthings(shared):
    root = shared / "data"
    train, validation, test = (open_scenes("ft3d", part, root) for part in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (22, 2, 6)
    assert len(open_scenes("ft3d", "train", root, "quarter")) == 5
    for scene in (train[0], test[0]):
        pixels = scene.camera.project(scene.pc1.astype(np.float64))
        np.testing.assert_allclose(pixels, pixels.round(), atol=1e-3)  # made from whole pixels of a 960 x 540 image
        assert pixels.min() > -0.01 and (pixels.max(axis=0) < (959.01, 539.01)).all()
        assert scene.pc1[:, 2].min() > 0


def test_real_kitti(shared):
    scenes = open_scenes("kitti", "all", shared / "data")
    assert scenes.names == ["kitti/000002", "kitti/000003"]
    assert names("kitti", "train", shared / "data") == ["000002"]
    assert names("kitti", "validation", shared / "data") == ["000003"]
    for scene in scenes:
        pixels = scene.camera.project(scene.pc1.astype(np.float64))
        np.testing.assert_allclose(pixels, pixels.round(), atol=2e-3)
        assert 0.3 < np.median(np.linalg.norm(scene.pc2 - scene.pc1, axis=1)) < 0.6
    pair = FlowPairs(scenes, 8192)[0]
    assert pair.xyz1.shape == (8192, 3) and pair.xyz1[:, 2].max() < 35


def test_real_kitti_has_no_test_frame(shared):
    with pytest.raises(InputError) as error:
        open_scenes("kitti", "test", shared / "data")
    assert str(error.value) == (
        "none of the 42 KITTI frames of the test part (000113 to 000199) is there, "
        "only 000002, 000003: use --split all for every evaluated frame present"
    )
