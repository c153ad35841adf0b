"""What a user can get wrong at the scripts: one line that tells the fix, exit status 2, and no file harmed.

Each entry of a table is one mistake. It is made in a folder that holds data/ (four training and two test scenes of 200
points in the layout of ft3d), kitti/ (two training frames), teacher.pt and run/ (a student distilled from it).
"""

import errno
import os
import pickle
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import train_student
import train_teacher
import visualize
from lib.cli import run_script
from lib.tasks.scene_flow import open_flow_pairs
from lib.training.checkpoint import resolve_teacher
from models import CHECKPOINT_FORMAT, MODELS, build_model, load_model, model_record
from tests.runs import load, log_lines, run, save_teacher, write_ft3d, write_kitti

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

SCRIPTS = {"train_teacher": train_teacher, "train_student": train_student, "evaluate": evaluate, "visualize": visualize}
NARROW = {"context": (8, 8, 8, 8), "predictor": (16, 16, 16, 8)}
NARROW_MODELS = {"teacher": NARROW | {"pyramid": (8, 8, 16, 16, 16)}, "student": NARROW | {"pyramid": (8,) * 5}}

FT3D = "--dataset ft3d --subset full --data-root data "
QUICK = "--device cpu --workers 0 --num-points 128 "
ONE_STEP = QUICK + "--steps 1 --batch-size 2 "
COMMANDS = {
    "teacher": "train_teacher " + ONE_STEP + "--out new ",
    "student": "train_student " + ONE_STEP + "--out new --gamma 0 ",
    "distil": "train_student " + ONE_STEP + FT3D + "--out new --gamma 0.3 ",
    "resume": "train_student --resume --out run ",
    "zero flow": "evaluate " + QUICK + "--baseline zero ",
    "evaluate": "evaluate " + QUICK + FT3D,
    "visualize": "visualize " + QUICK + FT3D,
}


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        narrow_networks(patch)
        write_ft3d(Path("data"), train=4)
        write_kitti(Path("kitti"), train=2, test=0)
        save_teacher(Path("teacher.pt"))
        flags = "--out run --gamma 0.3 --teacher teacher.pt --save-every 1"
        assert train_student.main((ONE_STEP + FT3D + flags).split()) == 0
    return folder


@pytest.fixture(autouse=True)
def here(template, tmp_path, monkeypatch) -> Path:
    """The working directory: a copy of the template. Networks are narrow, warnings go to standard error as ever."""
    monkeypatch.chdir(shutil.copytree(template, tmp_path / "here"))
    narrow_networks(monkeypatch)
    monkeypatch.setattr(resolve_teacher, "__defaults__", (Path("checkpoints"), ""))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the scripts set their own
    monkeypatch.setattr(warnings, "showwarning", lambda *args: os.write(2, warnings.formatwarning(*args[:4]).encode()))
    return Path.cwd()


def narrow_networks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("models.MODELS", {name: (MODELS[name][0], options) for name, options in NARROW_MODELS.items()})


def snapshot() -> dict[str, bytes | None]:
    """Every file below the working directory with its content, and every folder."""
    files = {path for path in Path().rglob("*") if path.is_file() and not path.is_symlink()}
    return {str(path): path.read_bytes() if path in files else None for path in Path().rglob("*")}


def start(command: str, capfd: pytest.CaptureFixture) -> tuple[int, list[str]]:
    """Runs "script flags..." in this process. Returns its status and its lines on standard error but for warnings."""
    script, *flags = command.split()
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: SCRIPTS[script].main(flags))
    errors = capfd.readouterr().err.splitlines()
    return stop.value.code, [line for line in errors if not line.startswith("warning: ")]


def assert_refused(command: str, message: str, capfd: pytest.CaptureFixture) -> None:
    """One line, status 2, and the working directory byte for byte as it was."""
    before = snapshot()
    status, errors = start(command, capfd)
    if "invalid choice" in message:  # Python 3.12 put the choices without quotes
        errors = [line.replace("'", "") for line in errors]
    assert (status, errors) == (2, ["error: " + message])
    assert snapshot() == before


def table(command: str, *mistakes: tuple) -> list:
    """mistakes: what is wrong, the flags typed, the line on standard error and, if need be, what puts it on disk."""
    return [
        pytest.param(COMMANDS[command] + flags, message, prepare[0] if prepare else Path, id=f"{command}: {name}")
        for name, flags, message, *prepare in mistakes
    ]


# ---- flags ----

COUNT, RATE = "must be a whole number of at least 1", "must be a number above 0"
GAMMA = "gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got "
SMALL = "a cloud of 100 points is too small: the four coarser levels need at least 128 points"
DATASETS = "ft3d, kitti, synthetic-things, synthetic-drive"

# argparse's own line is "argument FLAG: what"
VALUES = [
    ("--num-points", "0", f"{COUNT}, got 0"),
    ("--batch-size", "0", f"{COUNT}, got 0"),
    ("--steps", "2.5", f"{COUNT}, got 2.5"),
    ("--epochs", "3", "not allowed with argument --steps"),
    ("--lr", "0", f"{RATE}, got 0"),
    ("--lr", "-0.001", f"{RATE}, got -0.001"),
    ("--lr", "nan", f"{RATE}, got nan"),
    ("--lr", "1e999", f"{RATE}, got 1e999"),
    ("--lr-gamma", "2", f"{RATE} and at most 1, got 2"),
    ("--seed", "-1", "must be a whole number of at least 0 and at most 2.14748e+09, got -1"),
    ("--seed", "", "expected one argument"),
    ("--gamma", "half", "invalid float value: 'half'"),
    ("--dataset", "ft3", f"invalid choice: ft3 (choose from {DATASETS})"),
    ("--ops", "slow", "invalid choice: slow (choose from auto, fast, cuda, reference)"),
    ("--amp", "fp16", "invalid choice: fp16 (choose from off, bf16)"),
]

SEE_TEACHER, SEE_STUDENT, SEE_EVALUATE = (f" (see {script}.py --help)" for script in list(SCRIPTS)[:3])
ZERO, BAD = "--baseline zero --json ", "--checkpoint bad.pt"
PICTURE = "--checkpoint run/best.pt --out "

FLAGS = [
    *table(
        "student",
        *((f"{flag} {value}",) * 2 + (f"argument {flag}: {what}" + SEE_STUDENT,) for flag, value, what in VALUES),
        ("unknown flag", "--learning-rate 1", "unrecognized arguments: --learning-rate 1" + SEE_STUDENT),
        ("shortened flag", "--batch 1", "unrecognized arguments: --batch 1" + SEE_STUDENT),
        ("unknown device", "--device tpu", "--device must be auto, cpu, cuda or cuda:N, got tpu"),
        ("unknown GPU", "--device cuda:x", "--device must be auto, cpu, cuda or cuda:N, got cuda:x"),
        ("few points", FT3D + "--num-points 100", SMALL),
        ("large gamma", "--gamma 1.5", GAMMA + "1.5"),
        ("negative gamma", "--gamma -0.1", GAMMA + "-0.1"),
        ("NaN gamma", "--gamma nan", GAMMA + "nan"),
    ),
    *table(
        "evaluate",
        ("nothing", "", "one of the arguments --checkpoint --table --baseline is required" + SEE_EVALUATE),
        ("two", BAD + " --baseline zero", "argument --baseline: not allowed with argument --checkpoint" + SEE_EVALUATE),
        ("JSON in no folder", ZERO + "no/a.json", "--json no/a.json: its folder does not exist; create it first"),
        ("JSON is a folder", ZERO + "data", "cannot write data: Is a directory"),
        ("few points", "--checkpoint run/best.pt --num-points 100", SMALL),
    ),
    *table(
        "visualize",
        (
            "no such scene",
            PICTURE + "a.png --scene 2",
            "--scene 2: ft3d test has scenes 0 to 1, named like ft3d/val/0000000",
        ),
        ("not a PNG", PICTURE + "a.jpg", "--out a.jpg: the name must end in .png or .html"),
        ("no folder", PICTURE + "nowhere/a.png", "--out nowhere/a.png: its folder does not exist; create it first"),
        ("no checkpoint", "--checkpoint best.pt --out a.png", "best.pt: no such checkpoint file"),
    ),
]


# ---- data ----

SET = Path("data/FlyingThings3D_subset_processed_35m")
SCENE = SET / "val/0000001"
PC1, PC2 = SCENE / "pc1.npy", SCENE / "pc2.npy"
LAYOUT = "prepare the data set in the processed layout there (docs/data.md)"
NO_SET = "no folder {} in {}: " + LAYOUT + " or give another --data-root"
NO_ROOT = f"data set ft3d needs --data-root: the folder that holds {SET.name}"
NO_FILE = f"no file {PC2}: every scene folder holds pc1.npy and pc2.npy"
PROMISED = "its header promises 2400 bytes of coordinates"
EMPTY = "is empty: it should hold one folder per scene, named by digits, with pc1.npy and pc2.npy"
ALIGNED = "row i of pc2 must be where row i of pc1 moved, so prepare this scene again"
NOT_FINITE = "has NaN or infinity in 2 of 200 points, the first is point 7: prepare this scene again"


class Trap:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return Path.touch, (Path("code-was-run"),)


def store(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
    return lambda: np.save(path, change(np.load(path)))


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda cloud: np.where(np.isin(np.arange(len(cloud)), (7, 12))[:, None], np.float32(value), cloud)


def cut(path: str | Path, left_out: int) -> Callable[[], None]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-left_out])


def remove(*names: str) -> Callable[[], None]:
    return lambda: [shutil.rmtree(SET / name) for name in names]


DATA = [
    *table(
        "zero flow",
        ("no root", "--dataset ft3d", NO_ROOT),
        ("missing root", "--dataset ft3d --data-root nowhere", NO_SET.format(SET.name, "nowhere")),
        ("root is a file", "--dataset ft3d --data-root teacher.pt", NO_SET.format(SET.name, "teacher.pt")),
        (
            "other data set",
            "--dataset kitti --data-root data",
            NO_SET.format("KITTI_processed_occ_final or kitti_processed", "data"),
        ),
        ("missing split", FT3D, f"no folder {SET}/val: {LAYOUT}", remove("val")),
        ("empty folder", FT3D, f"{SET}/val {EMPTY}", remove("val/0000000", "val/0000001")),
        ("missing file", FT3D, NO_FILE, PC2.unlink),
        (
            "unreadable",
            FT3D,
            f"{PC1} cannot be read: Input/output error",
            lambda: (PC1.unlink(), PC1.symlink_to("/proc/self/mem")),
        ),
        (
            "different lengths",
            FT3D,
            f"{SCENE}: pc1.npy has 200 rows and pc2.npy has 199; {ALIGNED}",
            store(PC2, lambda cloud: cloud[1:]),
        ),
        ("transposed", FT3D, f"{PC1} has shape (3, 200); it must be (n, 3)", store(PC1, np.transpose)),
        ("integers", FT3D, f"{PC2} has dtype int64; save it again as float32", store(PC2, np.int64)),
        ("half precision", FT3D, f"{PC2} has dtype float16; save it again as float32", store(PC2, np.float16)),
        ("NaN", FT3D, f"{PC1} {NOT_FINITE}", store(PC1, with_value(np.nan))),
        ("infinity", FT3D, f"{PC2} {NOT_FINITE}", store(PC2, with_value(-np.inf))),
        (
            "no rows",
            FT3D,
            f"{PC1} has no rows; prepare this scene again or remove its folder",
            store(PC1, lambda cloud: cloud[:0]),
        ),
        (
            "truncated",
            FT3D,
            f"{PC1} is damaged: {PROMISED}, the file has 2300; copy or prepare it again",
            cut(PC1, 100),
        ),
        (
            "pickled",
            FT3D,
            f"{PC1} holds pickled objects, which are never loaded; save it again as float32",
            lambda: np.save(PC1, np.array([Trap()], dtype=object), allow_pickle=True),
        ),
        (
            "text",
            FT3D,
            f"{PC1} is not a complete .npy file; save it again with numpy.save as float32 of shape (n, 3)",
            lambda: PC1.write_text("1.0 2.0 3.0\n"),
        ),
        (
            "all far",
            FT3D,
            f"scene ft3d/val/{SCENE.name} has no point nearer than 35 m in both clouds; remove it or prepare it again",
            store(PC1, lambda cloud: cloud - np.float32([0, 0, 40])),
        ),
        (
            "no test frames",
            "--dataset kitti --data-root kitti",
            "none of the 42 KITTI frames of the test part (000113 to 000199) is there, only 000002, 000003: use "
            "--split all for every evaluated frame present",
        ),
        ("part", FT3D + "--split all", "data set ft3d has no part 'all': choose one of train, validation, test"),
        ("number of files", FT3D + "--num-scenes 3", "data set ft3d is read from disk: leave --num-scenes out"),
        (
            "root of synthetic",
            "--dataset synthetic-drive --data-root data",
            "data set synthetic-drive is computed, not read: leave --data-root out",
        ),
        (
            "quarter of KITTI",
            "--dataset kitti --data-root kitti --subset quarter",
            "data set kitti has no subset 'quarter': choose one of full",
        ),
    ),
    *table(
        "teacher",
        ("no root", "", NO_ROOT),
        (
            "one scene",
            FT3D,
            "1 training scene(s) found, at least 2 are needed: one to train on and one to hold out for validation",
            remove("train/0000001", "train/0000002", "train/0000003"),
        ),
    ),
]


# ---- checkpoints ----

MORE_THAN = "more than tensors and plain values (or is no checkpoint at all)"
CODE = f": refused, because it holds {MORE_THAN}; save the state_dict alone"
CUT = ": damaged or cut short: copy or download it again"
OTHER = f": neither a checkpoint of this project ({CHECKPOINT_FORMAT}) nor a published state"
UNFIT = ": the checkpoint's weights do not fit the teacher it says it holds: "
NO_ENTRY = ": the checkpoint's model entry lacks its name, options or weights"
NAN_WEIGHTS = ": NaN or infinity in the weights, first in pyramid.stem.0.weight"
NO_TEACHER = "no teacher file {}: give a path that exists, or one of ft3d, kitti, synthetic"


def save(content: Any) -> Callable[[], None]:
    return lambda: torch.save(content, "bad.pt")


def save_model(**changes: Callable[[dict], Any]) -> Callable[[], None]:
    """A checkpoint of the teacher with entries of its record changed."""

    def prepare() -> None:
        record = model_record(build_model("teacher"))
        record |= {name: change(record[name]) for name, change in changes.items()}
        torch.save({"format": CHECKPOINT_FORMAT, "model": record, "training": {}}, "bad.pt")

    return prepare


broken_weights = save_model(state_dict=lambda state: {k: v * np.nan if v.dim() else v for k, v in state.items()})

CHECKPOINTS = [
    *table(
        "evaluate",
        ("missing", BAD, "bad.pt: no such checkpoint file"),
        ("folder", "--checkpoint run", "run: no such checkpoint file"),
        ("empty", BAD, "bad.pt" + CUT, lambda: Path("bad.pt").touch()),
        ("truncated", "--checkpoint run/best.pt", "run/best.pt" + CUT, cut("run/best.pt", 1000)),
        ("page", BAD, "bad.pt" + CODE, lambda: Path("bad.pt").write_text("<html>\n")),
        ("text", BAD, "bad.pt" + CUT, lambda: Path("bad.pt").write_text("step 3\n")),
        ("code", BAD, "bad.pt" + CODE, save({"format": CHECKPOINT_FORMAT, "model": Trap()})),
        ("pickle", BAD, "bad.pt" + CODE, lambda: Path("bad.pt").write_bytes(pickle.dumps(Trap()))),
        ("list", BAD, "bad.pt: holds a list, not a checkpoint's dictionary", save([1, 2])),
        ("another network", BAD, "bad.pt" + OTHER, save(torch.nn.Linear(3, 3).state_dict())),
        (
            "other width",
            BAD,
            f"bad.pt{UNFIT}16 tensors differ, first pyramid.refine.0.0.bias",
            save_model(options=lambda options: options | {"bottleneck": 2}),
        ),
        (
            "unknown option",
            BAD,
            "bad.pt: model 'teacher': Widths.__init__() got an unexpected keyword argument 'depth'",
            save_model(options=lambda options: {"depth": 3}),
        ),
        ("no weights", BAD, "bad.pt" + NO_ENTRY, save_model(state_dict=lambda state: None)),
        ("numbers as weights", BAD, "bad.pt" + NO_ENTRY, save_model(state_dict=lambda state: dict.fromkeys(state, 0))),
        ("NaN weights", BAD, "bad.pt" + NAN_WEIGHTS, broken_weights),
    ),
    *table(
        "distil",
        (
            "no teacher",
            "",
            "--teacher is needed for gamma 0.3: give ft3d, kitti, synthetic or a checkpoint's path, or --gamma 0 to "
            "train from scratch",
        ),
        (
            "teacher not made yet",
            "--teacher ft3d",
            "no teacher ft3d: neither checkpoints/ft3d/best.pt nor checkpoints/ft3d.pt exists; make it with: "
            "python train_teacher.py --dataset ft3d --data-root DATA",
        ),
        ("missing", "--teacher bad.pt", NO_TEACHER.format("bad.pt")),
        ("folder", "--teacher run", "--teacher run is a folder: give the file, such as run/best.pt"),
        ("truncated", "--teacher teacher.pt", "teacher.pt" + CUT, cut("teacher.pt", 1000)),
        ("code", "--teacher bad.pt", "bad.pt" + CODE, save({"model": Trap()})),
        ("NaN weights", "--teacher bad.pt", "bad.pt" + NAN_WEIGHTS, broken_weights),
    ),
]


# ---- the run's folder ----

CONFIG, LOG, LAST, BEST = (Path("run") / name for name in ("config.json", "log.jsonl", "last.pt", "best.pt"))
HELD = "run already holds a run ({}): {}, or choose another folder with --out"
LEAVE = "leave it out to go on with that run, or choose another folder with --out"
CHANGED = "{} when the run in run began and is now {}: " + LEAVE
AGAIN = ": start the run again in another folder"
BAD_CONFIG, BAD_LOG = f"{CONFIG} is damaged" + AGAIN, f"{LOG} is damaged in line 1: remove that line to go on"
MORE = "--steps 2"


FOLDERS = [
    *table(
        "student",
        ("out is a file", FT3D + "--out teacher.pt", "cannot write teacher.pt: File exists"),
        ("out below a file", FT3D + "--out teacher.pt/a", "cannot write teacher.pt/a: Not a directory"),
        ("out not writable", FT3D + "--out /proc/run", "cannot write /proc/run: No such file or directory"),
        (
            "out holds a run",
            FT3D + "--out run",
            HELD.format("config.json, last.pt, best.pt, log.jsonl", "add --resume to go on with it"),
        ),
        (
            "out holds weights",
            FT3D + "--out run",
            HELD.format("last.pt, best.pt, log.jsonl", "it has no config.json to go on from"),
            CONFIG.unlink,
        ),
    ),
    *table(
        "resume",
        ("changed flag", "--lr 0.1", CHANGED.format("--lr was 0.001", 0.1)),
        ("changed gamma", "--gamma 0", CHANGED.format("--gamma was 0.3", 0.0)),
        ("truncated checkpoint", MORE, f"{LAST}" + CUT, cut(LAST, 5000)),
        ("no state", MORE, f"{LAST} holds no training state to resume from" + AGAIN, lambda: shutil.copy(BEST, LAST)),
        (
            "another network",
            MORE,
            f"{LAST} holds another network than this run trains" + AGAIN,
            lambda: torch.save(load(LAST) | {"model": model_record(build_model("teacher"))}, LAST),
        ),
        ("truncated config", MORE, BAD_CONFIG, cut(CONFIG, 20)),
        ("binary config", MORE, BAD_CONFIG, lambda: CONFIG.write_bytes(b"\xff\0")),
        ("empty config", MORE, BAD_CONFIG, lambda: CONFIG.write_text("{}")),
        ("list as config", MORE, BAD_CONFIG, lambda: CONFIG.write_text("[]")),
        ("text in log", MORE, BAD_LOG, lambda: LOG.write_text("step 1\n")),
        ("binary log", MORE, BAD_LOG, lambda: LOG.write_bytes(b"\xff\0\n")),
        ("log without steps", MORE, BAD_LOG, lambda: LOG.write_text("{}\n")),
        ("teacher gone", MORE, NO_TEACHER.format("teacher.pt"), Path("teacher.pt").unlink),
        (
            "teacher changed",
            MORE,
            "the teacher teacher.pt has changed since the run in run began: restore it, or start again with "
            "another --out",
            lambda: save_teacher(Path("teacher.pt"), seed=4),
        ),
        (
            "scene gone",
            MORE,
            "the training samples are no longer those of the run in run: 3 then, 2 now; restore them, or start again "
            "with another --out",
            remove("train/0000001"),
        ),
    ),
]


@pytest.mark.parametrize("command, message, prepare", FLAGS + DATA + CHECKPOINTS + FOLDERS)
def test_refused(command, message, prepare, capfd):
    prepare()
    assert_refused(command, message, capfd)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU on a machine that has none")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"], ids=["any GPU", "one GPU"])  # not the keyword "cuda"
def test_no_gpu(device, capfd):
    message = f"--device {device}: no usable GPU on this machine; use --device cpu"
    assert_refused(COMMANDS["student"] + FT3D + f"--device {device}", message, capfd)


def test_published_state_with_a_tensor_missing(published_state, capfd):
    torch.save({name: value for name, value in published_state.items() if name != "flow0.fc.weight"}, "bad.pt")
    counts = "1 tensors missing ['flow0.fc.weight'], 0 left over [], 188 of the 188 unused ones"
    assert_refused(COMMANDS["evaluate"] + BAD, f"bad.pt: not the published Bi-PointFlowNet state: {counts}", capfd)


# ---- a disk that fills up ----


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond ``size`` bytes, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(function: str) -> Iterator[None]:
    """A call of ``os`` fails for checkpoints as on a full disk."""
    original = getattr(os, function)

    def fail(target, *rest):
        name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        if ".pt" in name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(target, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, function, fail)
        yield


@pytest.mark.parametrize(
    "refusal, reason",
    [
        pytest.param(lambda: file_size_limit(20_000), "File too large", id="write"),
        pytest.param(lambda: full_disk("fsync"), "No space left on device", id="fsync"),
        pytest.param(lambda: full_disk("replace"), "No space left on device", id="replace"),
    ],
)
def test_full_disk_keeps_the_checkpoints(refusal, reason, capfd):
    command = COMMANDS["resume"] + "--steps 2"
    before = snapshot()
    with refusal():
        assert start(command, capfd) == (2, [f"error: cannot write run/last.pt: {reason}"])
    after = snapshot()
    assert all("events" in name for name in set(before) ^ set(after))
    assert all(after[str(path)] == before[str(path)] and load_model(path).name == "student" for path in (LAST, BEST))
    assert start(command, capfd) == (0, [])  # once there is room again
    assert [line["step"] for line in log_lines(Path("run"))] == [1, 2]


def test_full_disk_leaves_a_new_run_that_goes_on(capfd):
    command = COMMANDS["student"] + FT3D
    with file_size_limit(20_000):
        assert start(command, capfd) == (2, ["error: cannot write new/best.pt: File too large"])
    assert not list(Path("new").glob("*.pt*"))
    assert start(command + "--resume", capfd) == (0, [])


@pytest.mark.parametrize("command, flag, name", [("zero flow", "--json ", "a.json"), ("visualize", PICTURE, "a.png")])
def test_full_disk_keeps_an_older_result(command, flag, name, capfd):
    Path(name).write_text("the older result")
    with file_size_limit(500):
        assert_refused(COMMANDS[command] + FT3D + flag + name, f"cannot write {name}: File too large", capfd)


# ---- no mistakes, or mistakes that are met later ----


def test_scene_met_in_training_can_be_mended(capfd):
    scene = SET / "train/0000003/pc2.npy"  # the one held out for validation
    content = scene.read_bytes()
    scene.unlink()
    message = "error: " + NO_FILE.replace(str(PC2), str(scene))
    assert start(COMMANDS["student"] + FT3D, capfd) == (2, [message])
    scene.write_bytes(content)
    assert start(COMMANDS["student"] + FT3D + "--resume", capfd) == (0, [])


def test_more_points_than_the_cloud_has(capfd):
    assert start(COMMANDS["evaluate"] + "--checkpoint run/best.pt --num-points 512", capfd) == (0, [])
    pair = open_flow_pairs("ft3d", "test", Path("data"), "full", None, 512)[0]
    assert pair.xyz1.shape == pair.xyz2.shape == pair.flow.shape == (512, 3)
    assert len(pair.xyz1.unique(dim=0)) <= 200


def test_checkpoint_without_training_facts_is_scored(capfd):
    torch.save({"format": CHECKPOINT_FORMAT, "model": model_record(build_model("teacher"))}, "bad.pt")
    assert start(COMMANDS["evaluate"] + "--checkpoint bad.pt", capfd) == (0, [])


# ---- the whole path: a process of its own ----


@pytest.mark.parametrize(
    "command, message, prepare",
    [
        pytest.param("train_teacher --lr x", f"argument --lr: {RATE}, got x" + SEE_TEACHER, Path, id="flag"),
        pytest.param(COMMANDS["evaluate"] + BAD, "bad.pt" + CODE, save([Trap()]), id="code"),
        pytest.param(COMMANDS["zero flow"] + FT3D + "--workers 1", NO_FILE, PC2.unlink, id="reader process"),
    ],
)
def test_process(command, message, prepare, here):
    prepare()
    before = snapshot()
    script, *flags = command.split()
    done = run(f"{script}.py", *flags, cwd=here)
    *warned, error = done.stderr.splitlines()
    assert (done.returncode, error) == (2, "error: " + message)
    counts = f"warning: {SET}/val holds 2 scenes, the full set has 3824"
    assert warned == ([counts] if "--data-root" in flags else [])
    assert snapshot() == before
