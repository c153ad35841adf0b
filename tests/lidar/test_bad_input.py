"""What a user of LiDAR detection can get wrong: one line that tells the fix, exit status 2, and no file harmed.

The working directory holds kitti/ (frames 000001 to 000004 in KITTI's layout), and checkpoints of untrained networks:
small.pt, tiny.pt (also small), full.pt (the full range), other.pt (small, with other anchors) and flow.pt (for scene
flow). Results and labels of other detectors are in test_results.py, predict.py in test_predict_script.py.
"""

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import train_student
import train_teacher
from lib.cli import run_script
from lib.datasets.kitti_object import write_calibration, write_labels
from lib.datasets.lidar import open_database
from lib.datasets.lidar.parts import open_part
from lib.training.checkpoint import save_checkpoint
from models import build_model
from models.lidar.anchor_head import ANCHORS
from tests.lidar.detectors import save_detector
from tests.lidar.made import CALIBRATION, CAR, FAR_CAR, WALKER, frame, label
from tests.lidar.scenes import NARROW
from tests.runs import save_teacher

SCRIPTS = {"train_teacher": train_teacher, "train_student": train_student, "evaluate": evaluate}
TRAINING = Path("kitti/training")
FILES = {
    "calib": TRAINING / "calib/000002.txt",
    "label": TRAINING / "label_2/000002.txt",
    "scan": TRAINING / "velodyne_reduced/000002.bin",
    "image": TRAINING / "image_2/000002.png",
}
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1242).to_bytes(4, "big") + (375).to_bytes(4, "big")  # all that is read of it

ONE_STEP = "--task lidar-detection --device cpu --workers 0 --steps 1 --batch-size 2 --out new "
STREET = "--dataset synthetic-lidar --num-scenes 2 "
KITTI = "--dataset kitti --data-root kitti --train-frames list.txt "
COMMANDS = {
    "teacher": "train_teacher " + ONE_STEP + "--model small ",
    "student": "train_student " + ONE_STEP + "--student small-16x ",
    "nothing": "evaluate --task lidar-detection --device cpu --baseline nothing ",
    "evaluate": "evaluate --device cpu ",
}
READ = KITTI + "--test-frames list.txt"  # of evaluate
NEAR = KITTI + "--ground near"
DISTIL = STREET + "--teacher small.pt --distill "


def save(path: str, name: str, **options) -> None:
    torch.manual_seed(0)
    save_checkpoint(Path(path), build_model(name, **NARROW, **options), {})


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in FILES.values():
            path.parent.mkdir(parents=True)
        for i in range(1, 5):
            made = frame(
                f"{i:06d}", [(label("Car", CAR), 40), (label("Car", FAR_CAR), 20), (label("Cyclist", WALKER), 9)]
            )
            write_calibration(FILES["calib"].with_stem(made.name), CALIBRATION)
            write_labels(FILES["label"].with_stem(made.name), made.objects)
            made.points.tofile(FILES["scan"].with_stem(made.name))
            FILES["image"].with_stem(made.name).write_bytes(PNG)
        Path("list.txt").write_text("000002\n000001\n000003\n")
        save("small.pt", "pointpillars-small")
        save_detector(Path("tiny.pt"))
        save("full.pt", "pointpillars")
        save("other.pt", "pointpillars-small", anchors=ANCHORS, yaws=(0.0,))
        save_teacher(Path("flow.pt"))
    return folder


@pytest.fixture(autouse=True)
def here(template, tmp_path, monkeypatch) -> Path:
    """The working directory: a copy of the template, and no teacher in checkpoints/."""
    monkeypatch.chdir(shutil.copytree(template, tmp_path / "here"))
    monkeypatch.setattr(train_student.resolve_teacher, "__defaults__", (Path("checkpoints"), ""))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the scripts set their own
    monkeypatch.setattr(warnings, "showwarning", lambda *args: sys.stderr.write(warnings.formatwarning(*args[:4])))
    return Path.cwd()


def snapshot() -> dict[str, bytes | None]:
    """Every file below the working directory with its content, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def refusal(command: str, capfd: pytest.CaptureFixture) -> list[str]:
    """Runs "script flags...", which must end with status 2. Returns its lines on standard error but for warnings."""
    script, *flags = command.split()
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: SCRIPTS[script].main(flags))
    errors = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2, errors
    return [line for line in errors if not line.startswith("warning: ")]


def table(command: str, *mistakes: tuple) -> list:
    """mistakes: what is wrong, the flags typed, the line on standard error and, if need be, what puts it on disk."""
    return [
        pytest.param(COMMANDS[command] + flags, message, prepare[0] if prepare else Path, id=f"{command}: {name}")
        for name, flags, message, *prepare in mistakes
    ]


def write(file: str, content: str | bytes | Callable[[bytes], bytes]) -> Callable[[], None]:
    """Puts a content, or a change of what is there, into one of FILES or another file."""
    path = FILES.get(file, Path(file))

    def prepare() -> None:
        new = content(path.read_bytes()) if callable(content) else content
        path.write_bytes(new.encode() if isinstance(new, str) else new)

    return prepare


def edit_label(change: Callable[[list[str]], list[str]]) -> Callable[[], None]:
    """Changes the words of the second line of a label file."""

    def edited(content: bytes) -> bytes:
        lines = content.decode().splitlines()
        lines[1] = " ".join(change(lines[1].split()))
        return "\n".join(lines).encode()

    return write("label", edited)


def three_columns(content: bytes) -> bytes:
    return np.frombuffer(content, np.float32).reshape(-1, 4)[:, :3].tobytes()  # (N, 4) -> (N, 3)


def with_nan(content: bytes) -> bytes:
    points = np.frombuffer(content, np.float32).reshape(-1, 4).copy()  # (N, 4)
    points[7, 1] = np.nan
    return points.tobytes()


def behind(content: bytes) -> bytes:
    return (np.frombuffer(content, np.float32).reshape(-1, 4) * np.float32((-1, 1, 1, 1))).tobytes()  # (N, 4)


def far_away(content: bytes) -> bytes:
    return (np.frombuffer(content, np.float32).reshape(-1, 4) * np.float32((100, 1, 1, 1))).tobytes()  # (N, 4)


CALIB, SCANS, LABELS = (f"data_object_{name}.zip" for name in ("calib", "velodyne", "label_2"))
AGAIN = f"extract {SCANS} again"
MEND = f": correct that line or extract {LABELS} again"
NO_FOLDER = " has no folder image_2 or training/image_2: name the folder that holds training/"
MISSING = " is missing, as for 1 of 3 frames: extract {} there, or give a list of the frames that are complete"
ONE_A_LINE = "write one number a line, as 000007"

DATA = [
    *table(
        "nothing",
        ("no root", "--dataset kitti", "data set kitti needs --data-root: the folder that holds training/"),
        ("missing root", "--dataset kitti --data-root nowhere", "nowhere" + NO_FOLDER),
        ("another root", "--dataset kitti --data-root kitti/training/calib", "kitti/training/calib" + NO_FOLDER),
        ("number of files", READ + " --num-scenes 4", "data set kitti is read from disk: leave --num-scenes out"),
        (
            "root of a street",
            "--dataset synthetic-lidar --data-root kitti",
            "data set synthetic-lidar is computed, not read: leave --data-root out",
        ),
        (
            "list for a street",
            STREET + "--test-frames list.txt",
            "data set synthetic-lidar is computed, not read: leave --test-frames out",
        ),
        (
            "part of a street",
            STREET + "--split all",
            "data set synthetic-lidar has no part 'all': choose one of train, validation, test",
        ),
        (
            "no list",
            KITTI + "--test-frames no.txt",
            "no.txt cannot be read (No such file or directory): name a text file of frame numbers",
        ),
        (
            "list of an absent frame",
            READ,
            f"{TRAINING}/image_2/000009.png" + MISSING.format("data_object_image_2.zip"),
            write("list.txt", "1\n2\n9\n"),
        ),
        (
            "word in a list",
            READ,
            f"list.txt, line 2: 'second' is no frame number; {ONE_A_LINE}",
            write("list.txt", "1\nsecond\n"),
        ),
        (
            "frame twice",
            READ,
            "list.txt lists frame 000001 twice (lines 1 and 2): remove one line",
            write("list.txt", "1\n000001\n"),
        ),
        (
            "empty list",
            READ,
            "list.txt lists no frame: write one frame number a line, as 000007",
            write("list.txt", "\n"),
        ),
        (
            "binary list",
            READ,
            "list.txt is not a text file: name a text file of frame numbers",
            write("list.txt", b"\xff\0"),
        ),
        ("no calibration", READ, str(FILES["calib"]) + MISSING.format(CALIB), FILES["calib"].unlink),
        ("no scan", READ, str(FILES["scan"]) + MISSING.format(SCANS), FILES["scan"].unlink),
        (
            "no P2",
            READ,
            f"{FILES['calib']} has no line P2: extract {CALIB} again",
            write("calib", lambda text: text.replace(b"P2", b"P5")),
        ),
        (
            "calibration of words",
            READ,
            f"{FILES['calib']}: R0_rect must be 9 finite numbers: extract {CALIB} again",
            write("calib", lambda text: text.replace(b"R0_rect: 1.0", b"R0_rect: one")),
        ),
        (
            "14 fields",
            READ,
            f"{FILES['label']}, line 2 has 14 fields, it must have 15{MEND}",
            edit_label(lambda words: words[:-1]),
        ),
        (
            "unknown class",
            READ,
            f"{FILES['label']}, line 2 has the type 'Lorry', which is none of Car Van Truck Pedestrian "
            f"Person_sitting Cyclist Tram Misc DontCare{MEND}",
            edit_label(lambda words: ["Lorry", *words[1:]]),
        ),
        (
            "word for a number",
            READ,
            f"{FILES['label']}, line 2 has rotation_y = 'left', which is not a finite number{MEND}",
            edit_label(lambda words: [*words[:-1], "left"]),
        ),
        (
            "flat box",
            READ,
            f"{FILES['label']}, line 2 has h w l = 0 1.6 3.9, which must be above 0{MEND}",
            edit_label(lambda words: [*words[:8], "0", "1.6", "3.9", *words[11:]]),
        ),
        (
            "empty scan",
            READ,
            f"{FILES['scan']} has 0 bytes, no multiple of 16 (four float32 a point): {AGAIN}",
            write("scan", b""),
        ),
        (
            "3 columns",
            READ,
            f"{FILES['scan']} has 3228 bytes, no multiple of 16 (four float32 a point): {AGAIN}",
            write("scan", three_columns),
        ),
        (
            "truncated scan",
            READ,
            f"{FILES['scan']} has 4299 bytes, no multiple of 16 (four float32 a point): {AGAIN}",
            write("scan", lambda content: content[:-5]),
        ),
        (
            "NaN in a scan",
            READ,
            f"{FILES['scan']}: point 7 (of 1 such) is not finite: {AGAIN}",
            write("scan", with_nan),
        ),
        (
            "scan to the back",
            READ,
            f"{FILES['scan']}: no point lies in the camera's view; take scan, calib and image of one frame",
            write("scan", behind),
        ),
        (
            "scan without a point in range",
            READ,
            "frame 000002 has no point in the range (0.0, -39.68, -3.0, 69.12, 39.68, 1.0): remove it or "
            "widen the range",
            write("scan", far_away),
        ),
        (
            "no picture",
            READ,
            f"{FILES['image']} is not a PNG file: extract data_object_image_2.zip again",
            write("image", b"GIF89a"),
        ),
        ("ending of a report", STREET + "--html a.txt", "--html a.txt: the name must end in .html"),
        (
            "report in no folder",
            STREET + "--html no/a.html",
            "--html no/a.html: its folder does not exist; create it first",
        ),
    ),
    *table(
        "teacher",
        ("one frame", NEAR, "list.txt has 1 frame: training needs one more, to be held out", write("list.txt", "1\n")),
        (
            "one scene",
            "--dataset synthetic-lidar --num-scenes 1",
            "argument --num-scenes: must be a whole number of at least 2, got 1 (see train_teacher.py --help)",
        ),
        (
            "unknown ground",
            KITTI + "--ground far",
            "argument --ground: invalid choice: 'far' (choose from 'kitti', 'near') (see train_teacher.py --help)",
        ),
    ),
]

LOOKS = "{} looks for objects from {} to {} m, --ground {} holds those from {} to {}: "
FULL = "(0.0, -39.68, -3.0)", "(69.12, 39.68, 1.0)"
HALF = "(0.0, -17.92, -3.0)", "(35.84, 17.92, 1.0)"
PLACES = "pillars, bev/0, bev/1, bev/2"

NETWORKS = [
    *table(
        "teacher",
        (
            "small network on the full range",
            KITTI,
            LOOKS.format("pointpillars-small", *HALF, "kitti", *FULL) + "give --ground near",
        ),
        (
            "full network on the small range",
            STREET + "--model pointpillars",
            LOOKS.format("pointpillars", *FULL, "near", *HALF) + "give --ground kitti",
        ),
        (
            "unknown network",
            STREET + "--model second",
            "argument --model: invalid choice: 'second' (choose from 'pointpillars', 'small') (see "
            "train_teacher.py --help)",
        ),
        (
            "flag of scene flow",
            STREET + "--num-points 128",
            "unrecognized arguments: --num-points 128 (see train_teacher.py --help)",
        ),
        (
            "data set of scene flow",
            "--dataset ft3d",
            "argument --dataset: invalid choice: 'ft3d' (choose from 'kitti', 'synthetic-lidar') (see "
            "train_teacher.py --help)",
        ),
    ),
    *table(
        "student",
        (
            "unknown student",
            STREET + "--student half",
            "argument --student: invalid choice: 'half' (choose from '4x', '16x', 'small-4x', "
            "'small-16x') (see train_student.py --help)",
        ),
        (
            "no teacher",
            STREET,
            "--teacher is needed for gamma 0.3: give kitti, synthetic or a checkpoint's path, or --gamma "
            "0 to train from scratch",
        ),
        (
            "teacher not made yet",
            STREET + "--teacher synthetic",
            "no teacher synthetic: neither checkpoints/lidar-detection/synthetic/best.pt nor "
            "checkpoints/lidar-detection/synthetic.pt exists; make it with: "
            "python train_teacher.py --task lidar-detection --dataset synthetic-lidar",
        ),
        (
            "teacher for scene flow",
            STREET + "--teacher flow.pt",
            "--teacher flow.pt is a network for scene-flow, the student one for lidar-detection: give a "
            "teacher of the same task",
        ),
        (
            "teacher of another range",
            STREET + "--teacher full.pt",
            "--teacher full.pt does not fit: "
            + LOOKS.format("pointpillars", *FULL, "near", *HALF)
            + "give --ground kitti",
        ),
        ("unknown place", DISTIL + "hint@bev/7", f"the student has no feature bev/7: choose a place of {PLACES}"),
        ("several places", DISTIL + "hint@bev", "hint compares one feature: choose hint@bev/1, for example"),
        (
            "method for maps",
            DISTIL + "semckd@pillars",
            "semckd@pillars: the feature pillars is rows; semckd serves points and a map only: choose another place",
        ),
        (
            "another method for maps",
            DISTIL + "similarity@pillars",
            "similarity@pillars: the feature pillars is rows; similarity serves points and a map only: "
            "choose another place",
        ),
        (
            "method for levels",
            DISTIL + "self",
            "self compares predictions of several levels, and this task has one prediction only",
        ),
        ("unknown logits", DISTIL + "logits@boxes", "logits@boxes: the networks have no such logits: choose of class"),
    ),
    *table(
        "evaluate",
        (
            "network of scene flow with flags of scans",
            "--checkpoint flow.pt --ground near",
            "unrecognized arguments: --ground near (see evaluate.py --help)",
        ),
        (
            "detector with flags of scene flow",
            "--checkpoint tiny.pt --num-points 128",
            "unrecognized arguments: --num-points 128 (see evaluate.py --help)",
        ),
        (
            "two tasks in a table",
            STREET + "--table tiny.pt flow.pt",
            "flow.pt is a network for scene-flow, the first one is for lidar-detection: one table, one task",
        ),
        (
            "small network on the full range",
            "--checkpoint tiny.pt " + READ,
            LOOKS.format("pointpillars-small-16x", *HALF, "kitti", *FULL) + "give --ground near",
        ),
        (
            "report of a table",
            STREET + "--table tiny.pt --html a.html",
            "--html reports on one checkpoint: leave --table out",
        ),
        (
            "graph of a detector",
            STREET + "--checkpoint tiny.pt --cuda-graph",
            "--cuda-graph is not there for lidar-detection: leave it out",
        ),
    ),
]


@pytest.mark.parametrize("command, message, prepare", DATA + NETWORKS)
def test_refused(command, message, prepare, capfd):
    prepare()
    before = snapshot()
    errors = refusal(command, capfd)
    if "invalid choice" in message:  # Python 3.12 put the choices without quotes
        errors, message = [line.replace("'", "") for line in errors], message.replace("'", "")
    assert errors == ["error: " + message]
    assert snapshot() == before


@pytest.mark.parametrize(
    "method, message",
    [
        ("output", "output distillation compares anchor by anchor: student and teacher have different anchors"),
        (
            "logits",
            "logits class: the student's are (37632, 4) and the teacher's (18816, 4): give both networks the same "
            "proposals and classes",
        ),
    ],
    ids=["output", "logits"],
)
def test_a_teacher_with_other_anchors_is_met_at_the_first_step(method, message, capfd):
    """Before any weights are written."""
    before = snapshot()
    errors = refusal(COMMANDS["student"] + DISTIL.replace("small.pt", "other.pt") + method, capfd)
    assert errors == [f"error: step 1, samples 000000, 000001: {message}"]
    assert {path for path in set(snapshot()) - set(before) if "events" not in path} <= {
        "new",
        "new/config.json",
        "new/log.jsonl",
    }
    assert Path("new/log.jsonl").read_text() == ""


# ---- the ground-truth database ----

DATABASE = "train_teacher " + ONE_STEP + KITTI + "--model pointpillars --database cache"


def build() -> Path:
    """The folder of the database that the training above uses."""
    return open_database(open_part("kitti", "train", Path("kitti"), Path("list.txt")), Path("cache")).folder


def test_a_damaged_database_is_said_and_built_again(capfd):
    built = build()
    content = (built / "points.npy").read_bytes()
    (built / "points.npy").write_bytes(content[:-8])
    message = f"error: the ground-truth database {built} is damaged: remove that folder, the next run builds it again"
    before = snapshot()
    assert refusal(DATABASE, capfd) == [message] and snapshot() == before
    shutil.rmtree(built)
    assert build() == built and (built / "points.npy").read_bytes() == content


def test_a_database_folder_that_cannot_be_written(capfd):
    Path("cache").touch()
    before = snapshot()
    (line,) = refusal(DATABASE, capfd)
    assert line.startswith("error: cannot write the ground-truth database to cache/ground_truth_database (Not a direc")
    assert line.endswith("give a folder that can be written to with --database") and snapshot() == before


def test_frames_without_an_object_for_the_database(capfd):
    for path in FILES["label"].parent.iterdir():
        path.write_text("")
    before = snapshot()
    (line,) = refusal(DATABASE, capfd)
    assert "none of the 2 training frames has an object" in line and line.endswith("--augment off")
    assert snapshot() == before
