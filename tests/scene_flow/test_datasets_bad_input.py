"""Every kind of unfit data gets one line that names the file and the fix."""

import pickle
import warnings

import numpy as np
import pytest

from lib.datasets.scene_flow import FlowPairs, open_scenes
from lib.errors import InputError

GOOD = np.random.default_rng(0).uniform((-5, -1, 3), (5, 3, 30), (20, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def quiet_counts():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the full set has.*")
        yield


@pytest.fixture
def scene_folder(tmp_path):
    folder = tmp_path / "kitti_processed" / "000002"
    folder.mkdir(parents=True)
    np.save(folder / "pc1.npy", GOOD)
    np.save(folder / "pc2.npy", GOOD)
    return folder


def message(call, *arguments, **keywords):
    with pytest.raises(InputError) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def reading(folder):
    return message(lambda: FlowPairs(open_scenes("kitti", "all", folder.parent.parent), 8)[0])


# ---- files ----


@pytest.mark.parametrize("name", ["pc1.npy", "pc2.npy"])
def test_missing_file(scene_folder, name):
    (scene_folder / name).unlink()
    assert reading(scene_folder) == f"no file {scene_folder / name}: every scene folder holds pc1.npy and pc2.npy"


def test_truncated_data(scene_folder):
    path = scene_folder / "pc1.npy"
    path.write_bytes(path.read_bytes()[:-7])
    assert reading(scene_folder) == (
        f"{path} is damaged: its header promises 240 bytes of coordinates, the file has 233; copy or prepare it again"
    )


def test_trailing_data(scene_folder):
    path = scene_folder / "pc2.npy"
    path.write_bytes(path.read_bytes() + b"12345678")
    assert "promises 240 bytes of coordinates, the file has 248" in reading(scene_folder)


@pytest.mark.parametrize("kept", [0, 5, 9, 60])
def test_truncated_header(scene_folder, kept):
    path = scene_folder / "pc1.npy"
    path.write_bytes(path.read_bytes()[:kept])
    assert reading(scene_folder) == (
        f"{path} is not a complete .npy file; save it again with numpy.save as float32 of shape (n, 3)"
    )


def test_false_header_allocates_nothing(scene_folder):
    path = scene_folder / "pc1.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    assert "promises 12000000000000 bytes of coordinates, the file has 0" in reading(scene_folder)


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a data file was unpickled",)


def test_pickled_npy(scene_folder):
    path = scene_folder / "pc1.npy"
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    assert reading(scene_folder) == f"{path} holds pickled objects, which are never loaded; save it again as float32"


def test_plain_pickle(scene_folder):
    path = scene_folder / "pc1.npy"
    path.write_bytes(pickle.dumps(Trap()))
    assert reading(scene_folder).startswith(f"{path} is not a complete .npy file;")


@pytest.mark.parametrize("shape", [(20, 4), (3, 20), (60,), (1, 20, 3), ()])
def test_wrong_shape(scene_folder, shape):
    np.save(scene_folder / "pc1.npy", np.ones(shape, np.float32))
    assert reading(scene_folder) == f"{scene_folder / 'pc1.npy'} has shape {shape}; it must be (n, 3)"


@pytest.mark.parametrize("dtype", ["int64", "float16", "complex64", "bool", "<U3"])
def test_wrong_dtype(scene_folder, dtype):
    np.save(scene_folder / "pc2.npy", GOOD.astype(dtype))
    assert reading(scene_folder) == f"{scene_folder / 'pc2.npy'} has dtype {np.dtype(dtype)}; save it again as float32"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(scene_folder, value):
    bad = GOOD.copy()
    bad[[7, 12], 1] = value
    np.save(scene_folder / "pc2.npy", bad)
    assert reading(scene_folder) == (
        f"{scene_folder / 'pc2.npy'} has NaN or infinity in 2 of {len(GOOD)} points, the first is point 7: "
        "prepare this scene again"
    )


def test_too_large_for_float32(scene_folder):
    np.save(scene_folder / "pc1.npy", np.full((4, 3), 1e300))
    assert "has NaN or infinity in 4 of 4 points, the first is point 0" in reading(scene_folder)


def test_different_lengths(scene_folder):
    np.save(scene_folder / "pc2.npy", GOOD[:-1])
    assert reading(scene_folder) == (
        f"{scene_folder}: pc1.npy has 20 rows and pc2.npy has 19; "
        f"row i of pc2 must be where row i of pc1 moved, so prepare this scene again"
    )


def test_no_rows(scene_folder):
    np.save(scene_folder / "pc1.npy", GOOD[:0])
    assert reading(scene_folder) == (
        f"{scene_folder / 'pc1.npy'} has no rows; prepare this scene again or remove its folder"
    )


def test_nothing_near(scene_folder):
    np.save(scene_folder / "pc1.npy", GOOD + np.float32([0, 0, 40]))
    assert reading(scene_folder) == (
        "scene kitti/000002 has no point nearer than 35 m in both clouds; remove it or prepare it again"
    )


def test_everything_is_ground(scene_folder):
    for name in ("pc1.npy", "pc2.npy"):
        np.save(scene_folder / name, GOOD - np.float32([0, 9, 0]))
    assert reading(scene_folder) == (
        f"{scene_folder}: every row is ground (y < -1.4 m in both clouds); y must point up in these files"
    )


def test_signs_stored_another_way(tmp_path):
    for split in ("train", "val"):
        folder = tmp_path / "FlyingThings3D_subset_processed_35m" / split / "0000001"
        folder.mkdir(parents=True)
        np.save(folder / "pc1.npy", GOOD)
        np.save(folder / "pc2.npy", GOOD)
    assert message(lambda: open_scenes("ft3d", "test", tmp_path)[0]) == (
        f"{folder}: no point of pc1.npy lies in front of the camera after the data set's sign rule; "
        f"prepare this scene again with the signs of the processed layout"
    )


# ---- folders ----


def test_no_root():
    assert message(open_scenes, "ft3d", "train") == (
        "data set ft3d needs --data-root: the folder that holds FlyingThings3D_subset_processed_35m"
    )
    assert message(open_scenes, "kitti", "train") == (
        "data set kitti needs --data-root: the folder that holds KITTI_processed_occ_final or kitti_processed"
    )


@pytest.mark.parametrize(
    "dataset,folder",
    [("ft3d", "FlyingThings3D_subset_processed_35m"), ("kitti", "KITTI_processed_occ_final or kitti_processed")],
)
@pytest.mark.parametrize("below", ["", "nowhere"])
def test_missing_folder(tmp_path, dataset, folder, below):
    assert message(open_scenes, dataset, "train", tmp_path / below) == (
        f"no folder {folder} in {tmp_path / below}: prepare the data set in the processed layout there "
        f"(docs/data.md) or give another --data-root"
    )


def test_missing_split_folder(tmp_path):
    base = tmp_path / "FlyingThings3D_subset_processed_35m"
    (base / "train" / "0000000").mkdir(parents=True)
    assert message(open_scenes, "ft3d", "test", tmp_path) == (
        f"no folder {base / 'val'}: prepare the data set in the processed layout there (docs/data.md)"
    )


def test_empty_folder(tmp_path):
    base = tmp_path / "kitti_processed"
    (base / "notes").mkdir(parents=True)
    assert message(open_scenes, "kitti", "all", tmp_path) == (
        f"{base} is empty: it should hold one folder per scene, named by digits, with pc1.npy and pc2.npy"
    )


def test_one_training_scene(tmp_path):
    (tmp_path / "kitti_processed" / "000002").mkdir(parents=True)
    assert message(open_scenes, "kitti", "train", tmp_path) == (
        "1 training scene(s) found, at least 2 are needed: one to train on and one to hold out for validation"
    )


def test_frame_that_kitti_does_not_have(tmp_path):
    (tmp_path / "kitti_processed" / "000200").mkdir(parents=True)
    assert message(open_scenes, "kitti", "all", tmp_path) == (
        "KITTI Scene Flow 2015 has no training frame 000200 (its frames are 000000 to 000199): remove that folder"
    )


def test_no_evaluated_frame(tmp_path):
    (tmp_path / "kitti_processed" / "000000").mkdir(parents=True)
    assert message(open_scenes, "kitti", "all", tmp_path) == (
        "none of the 142 KITTI frames of the evaluated frames (000002 to 000199) is there, only 000000: "
        "add evaluated frames"
    )


# ---- arguments ----


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (
            dict(dataset="kiti", part="train"),
            "no data set 'kiti': choose one of ft3d, kitti, synthetic-things, synthetic-drive",
        ),
        (dict(dataset="ft3d", part="all"), "data set ft3d has no part 'all': choose one of train, validation, test"),
        (
            dict(dataset="kitti", part="val"),
            "data set kitti has no part 'val': choose one of train, validation, test, all",
        ),
        (
            dict(dataset="kitti", part="all", subset="quarter"),
            "data set kitti has no subset 'quarter': choose one of full",
        ),
        (
            dict(dataset="synthetic-drive", part="train", subset="quarter"),
            "data set synthetic-drive has no subset 'quarter': choose one of full",
        ),
        (
            dict(dataset="ft3d", part="train", subset="half"),
            "data set ft3d has no subset 'half': choose one of full, quarter",
        ),
        (dict(dataset="kitti", part="all", num_scenes=3), "data set kitti is read from disk: leave --num-scenes out"),
        (
            dict(dataset="synthetic-things", part="train", root="data"),
            "data set synthetic-things is computed, not read: leave --data-root out",
        ),
        (dict(dataset="synthetic-things", part="train", num_scenes=0), "number of scenes is 0; it must be at least 1"),
        (dict(dataset="synthetic-drive", part="train", seed=-1), "seed is -1; it must be 0 or more"),
    ],
)
def test_arguments(arguments, expected):
    assert message(open_scenes, **arguments) == expected


def test_draw_arguments(scene_folder):
    scenes = open_scenes("kitti", "all", scene_folder.parent)
    assert message(FlowPairs, scenes, 0) == "number of points is 0; it must be at least 1"
    assert message(FlowPairs, scenes, 8, seed=-1) == "seed is -1; it must be 0 or more"
    with pytest.raises(IndexError):
        FlowPairs(scenes, 8)[1]
