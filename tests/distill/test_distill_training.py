"""--distill from the flag to the trained student: what is read, built, trained, saved, resumed and refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_student
from lib.cli import run_script
from lib.datasets.scene_flow.pairs import collate
from lib.errors import InputError
from lib.losses.distill import METHODS, DistillationContext, Selection, Term, parse_distill
from lib.tasks.scene_flow import open_flow_pairs
from lib.training.engine import Trainer
from models import build_model, count_parameters, load_model
from tests.runs import (
    SCENE_FLOW,
    TINY,
    assert_same_run,
    distiller,
    identical,
    load,
    log_lines,
    save_teacher,
    setting_for,
    write_kitti,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

NARROW = {"pyramid": (8, 8, 16, 16, 16), "predictor": (16, 16, 16, 8)}
ALL = (
    "output:0.3,hint,multiscale:0.5,pkd,attention:10,similarity:20,semckd,rkd:0.1,pointdistiller+neighbours=8,self:0.5,"
    "online+target=general:0.5"
)
RESUME = ["--resume", "--out"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_kitti(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "narrow.pt", predictor=(16, 16, 16, 12))


@pytest.fixture(scope="module")
def flags(data, teacher) -> list[str]:
    return [
        *TINY,
        "--data-root",
        str(data),
        "--teacher",
        str(teacher),
        "--student",
        "tiny",
        "--batch-size",
        "2",
    ]


# --- the flag ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, gamma, expected",
    [
        (None, None, Selection(0.3)),
        (None, 0.7, Selection(0.7)),
        ("output", None, Selection(0.3)),
        ("output", 0.7, Selection(0.7)),
        ("output:0.7", 0.7, Selection(0.7)),
        ("output:0", None, Selection(0.0)),
        ("rkd", None, Selection(0.0, terms=(Term("rkd", 1.0),))),
        ("rkd", 0.0, Selection(0.0, terms=(Term("rkd", 1.0),))),
        ("output:0,multiscale:0,rkd:0", None, Selection(0.0)),
        (
            "output:0.3, multiscale@embedding:0.25,hint@predictor/2",
            None,
            Selection(0.3, terms=(Term("multiscale", 0.25, "embedding"), Term("hint", 1.0, "predictor/2"))),
        ),
        (
            "pointdistiller@predictor/1+reweight=off+neighbours=16+temperature=0.5:2,online+target=naive",
            None,
            Selection(
                0.0,
                terms=(
                    Term(
                        "pointdistiller",
                        2.0,
                        "predictor/1",
                        (("reweight", False), ("neighbours", 16), ("temperature", 0.5)),
                    ),
                    Term("online", 1.0, None, (("target", "naive"),)),
                ),
            ),
        ),
    ],
)
def test_what_the_flag_means(text, gamma, expected):
    assert parse_distill(text, gamma) == expected


@pytest.mark.parametrize(
    "text, gamma, line",
    [
        (
            "fitnets",
            None,
            "--distill has no method 'fitnets': choose of output, logits, hint, multiscale, pkd, ",
        ),
        ("", None, "--distill has no method ''"),
        ("output,,rkd", None, "--distill has no method ''"),
        ("rkd:much", None, "--distill rkd:much: the weight of rkd must be a number of at least 0, got 'much'"),
        ("rkd:", None, "--distill rkd:: the weight of rkd must be a number of at least 0, got ''"),
        ("rkd:-1", None, "--distill rkd:-1: the weight of rkd must be a number of at least 0"),
        ("rkd:nan", None, "--distill rkd:nan: the weight of rkd must be a number of at least 0"),
        ("rkd:inf", None, "--distill rkd:inf: the weight of rkd must be a number of at least 0"),
        ("output:2", None, "gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got 2"),
        ("rkd,rkd:2", None, "--distill rkd,rkd:2: rkd is named twice, name each method once"),
        ("output:0.3,rkd", 0.5, "--gamma 0.5 and --distill output:0.3,rkd disagree: give the weight of output once"),
        ("rkd", 0.5, "--gamma 0.5 is the weight of output, which --distill rkd leaves out: add output to the list"),
        ("self@predictor", None, "--distill self@predictor: self takes no place"),
        ("output@predictor", None, "--distill output@predictor: output takes no place"),
        ("hint@", None, "--distill hint@: give one such as hint@pyramid1/1"),
        ("rkd+anchors=8", None, "--distill rkd+anchors=8: rkd has no option 'anchors': it has none"),
        (
            "pointdistiller+k=8",
            None,
            "--distill pointdistiller+k=8: pointdistiller has no option 'k': choose of mode, kept, neighbours, "
            "temperature, reweight, local, width, freeze_teacher",
        ),
        ("pointdistiller+", None, "--distill pointdistiller+: pointdistiller has no option ''"),
        ("pointdistiller+kept", None, "--distill pointdistiller+kept: kept must be a whole number of at least 1, got"),
        (
            "pointdistiller+kept=0",
            None,
            "--distill pointdistiller+kept=0: kept must be a whole number of at least 1, got '0'",
        ),
        ("pointdistiller+kept=2.5", None, "--distill pointdistiller+kept=2.5: kept must be a whole number of at least"),
        (
            "pointdistiller+temperature=nan",
            None,
            "--distill pointdistiller+temperature=nan: temperature must be a number above 0 or auto, got 'nan'",
        ),
        (
            "pointdistiller+reweight=no",
            None,
            "--distill pointdistiller+reweight=no: reweight must be on or off, got 'no'",
        ),
        ("pointdistiller+kept=8+kept=9", None, "--distill pointdistiller+kept=8+kept=9: kept is given twice"),
        (
            "online+target=best",
            None,
            "--distill online+target=best: target must be naive or minerror or linear or general, got 'best'",
        ),
        ("online+peer=", None, "--distill online+peer=: peer must be a word, got ''"),
        ("online@predictor", None, "--distill online@predictor: online takes no place"),
        ("online:x", None, "--distill online:x: the weight of online must be a number of at least 0, got 'x'"),
    ],
)
def test_what_the_flag_cannot_mean(text, gamma, line):
    with pytest.raises(InputError) as caught:
        parse_distill(text, gamma)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    "given, line",
    [
        (["--distill", "fsp"], "--distill has no method 'fsp': choose of output, logits, hint"),
        (["--distill", "logits"], "logits compares class scores, and the networks of this task give none"),
        (["--distill", "rkd:many"], "--distill rkd:many: the weight of rkd must be a number of at least 0"),
        (["--distill", "self:4"], "self takes over 1.2 of the ground truth's weight, which is 1 at gamma 0: lower"),
        (["--distill", "output:0.9,self"], "self takes over 0.3 of the ground truth's weight, which is 0.1 at gamma"),
        (["--distill", "hint@pyramid1/4"], "the student has no feature pyramid1/4: choose a place of pyramid1/0, "),
        (["--distill", "pkd@decoder"], "the student has no feature decoder: choose a place of pyramid1/0, "),
        (["--distill", "semckd", "--batch-size", "1"], "semckd compares the samples of a batch: it needs at least 2"),
        (["--distill", "rkd", "--teacher", "none"], "no teacher file none: give a path that exists, or one of ft3d"),
        (["--distill", "online+peer=huge"], "--distill: there is no network 'huge' for a peer: choose of teacher, "),
        (["--student", "huge"], "argument --student: invalid choice: 'huge' (choose from 'half', 'half-all',"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, tmp_path, capsys, given, line):
    arguments = [*flags, "--steps", "1", "--out", str(tmp_path / "run"), *given]
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: train_student.main(arguments))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith(f"error: {line}") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_methods_that_need_a_teacher_say_so(data, tmp_path):
    arguments = [*TINY, "--data-root", str(data), "--steps", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match="--teacher is needed for gamma 0.3, rkd: give ft3d, "):
        train_student.main([*arguments, "--distill", "output,rkd,self"])
    with pytest.raises(InputError, match="--teacher is needed for multiscale: give ft3d, "):
        train_student.main([*arguments, "--distill", "multiscale"])
    assert not (tmp_path / "run").exists()


# --- students ----------------------------------------------------------------------------------------------------


def test_students_are_width_settings_of_one_class():
    counts = {short: count_parameters(build_model(name)) for short, name in SCENE_FLOW.students.items()}
    assert counts == {"half": 3_712_884, "half-all": 2_039_412, "quarter": 949_328, "tiny": 321_072}
    assert counts["half-all"] == pytest.approx(2.0e6, rel=0.05) and counts["tiny"] <= 500_000
    assert SCENE_FLOW.students["half"] == "student"


def test_feature_widths_are_those_of_the_features(small_pair):
    net = build_model("student-tiny").eval()
    features = net(*small_pair, return_features=True).features
    widths = net.feature_widths()
    assert widths == {name: features[name].shape[2] for name in widths}
    assert set(features) - set(widths) == {f"pyramid2/{level}" for level in range(5)} | {"pyramid1/4"}


# --- the loss of a step ------------------------------------------------------------------------------------------


def build_narrow(_name: str):
    return build_model("teacher", **NARROW)


def step_of(data: Path, text: str, teacher: bool = True):
    torch.manual_seed(0)
    batch = collate([open_flow_pairs("kitti", "train", data, "full", None, 128)[0, i] for i in range(2)])
    student = build_model("student", **NARROW)
    teacher_net = build_model("teacher", **{**NARROW, "pyramid": (8, 16, 16, 16, 16)}).eval() if teacher else None
    method = parse_distill(text).build(setting_for(student, teacher_net, build_peer=build_narrow))
    return student, batch, method, teacher_net


def test_the_total_is_the_mix_of_output_plus_the_weighted_terms(data):
    student, batch, method, teacher = step_of(data, ALL)
    losses = distiller(method, teacher).step(student, batch)
    terms = {"hint": 1, "multiscale": 0.5, "pkd": 6, "semckd": 50, "rkd": 0.1, "pointdistiller": 1, "self": 0.5}
    terms |= {"online": 0.5, "attention": 10, "similarity": 20}
    expected = 0.3 * losses["loss_kd"] + 0.7 * losses["loss_gt"] + sum(w * losses[name] for name, w in terms.items())
    expected += losses["online_peer_gt"]
    torch.testing.assert_close(losses["loss"], expected)
    assert set(terms) == set(METHODS) - {"output", "logits"} and set(losses) >= set(terms)


def test_features_are_only_returned_for_a_method_that_needs_them(data):
    for text, wanted in (("output:0.3", False), ("output:0", False), ("output:0.3,multiscale", True)):
        student, batch, method, teacher = step_of(data, text)
        seen = []
        for net in (student, teacher):
            net.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(bool(output.features)))
        distiller(method, teacher).step(student, batch)
        assert seen == [wanted] * (2 if method.needs_teacher else 1), text


def test_a_step_of_every_method_leaves_the_teacher_unchanged(data):
    student, batch, method, teacher = step_of(data, ALL)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    start = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        distiller(method, teacher).step(student, batch)["loss"].backward()
        optimizer.step()
    assert identical(before, dict(teacher.state_dict())) and not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(torch.equal(start[name], value) for name, value in method.named_parameters()), "adapters train"


def test_half_precision_features_are_compared_in_full_precision(data):
    student, batch, method, teacher = step_of(data, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(method, teacher).step(student, batch)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    losses["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


TERMS = [(name, name) for name in METHODS if name not in ("output", "logits", "self")]
TERMS += [("self", "self_flow"), ("self", "self_feature")]  # ``self`` less the part of the ground truth it takes over


def hold_finest_flow(method: torch.nn.Module) -> None:
    """The method sees the finest flow of the first step in every step.

    In training the ground truth holds it. ``self_flow`` alone does not: f_0 is f_1 brought up plus a residual without
    gradient, so that it runs on ahead of the coarser flows that follow it.
    """
    first = []

    def hold(_method: torch.nn.Module, arguments: tuple[DistillationContext]) -> tuple[DistillationContext]:
        seen = arguments[0].student
        finest, *coarser = seen.levels.values
        first.append(finest.detach())
        held = replace(seen, levels=replace(seen.levels, values=[first[0], *coarser]))
        return (replace(arguments[0], student=held),)

    method.register_forward_pre_hook(hold)


@pytest.mark.parametrize(("name", "term"), TERMS)
def test_each_term_falls_when_a_student_learns_real_pairs_by_it(shared, name, term):
    """20 steps on the same two pairs by one term alone, without the ground truth's loss."""
    pairs = open_flow_pairs("ft3d", "train", shared / "data", "full", None, 256)
    batch = collate([pairs[0, i] for i in range(2)])
    torch.manual_seed(0)
    student, teacher = build_model("student-tiny"), build_model("teacher", **NARROW).eval()
    method = parse_distill(name).build(setting_for(student, teacher, build_peer=build_narrow))
    if term == "self_flow":
        hold_finest_flow(method)
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], lr=3e-3)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = distiller(method, teacher).step(student, batch)[term]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.9 * sum(values[:5])


# --- whole runs --------------------------------------------------------------------------------------------------


def test_weight_0_is_bit_for_bit_the_scratch_student(flags, tmp_path, monkeypatch):
    monkeypatch.setattr("train_student.load_model", lambda *_: pytest.fail("a teacher of no weight was loaded"))
    steps = [*flags, "--steps", "3"]
    assert train_student.main([*steps, "--gamma", "0", "--out", str(tmp_path / "scratch")]) == 0
    zero = ["--distill", "output:0,multiscale:0,rkd:0,self:0,online:0"]
    assert train_student.main([*steps, *zero, "--out", str(tmp_path / "zero")]) == 0
    assert_same_run(tmp_path / "zero", tmp_path / "scratch")


def test_adapters_do_not_move_the_start_of_the_student(flags, tmp_path):
    """The student's first loss does not depend on what else is trained."""
    firsts = []
    for name, given in (("plain", []), ("more", ["--distill", ALL])):
        assert train_student.main([*flags, *given, "--steps", "1", "--out", str(tmp_path / name)]) == 0
        firsts.append(log_lines(tmp_path / name)[0]["train"])
    assert firsts[0]["loss_gt"] == firsts[1]["loss_gt"] and firsts[0]["loss_kd"] == firsts[1]["loss_kd"]


def test_every_term_is_logged_and_the_saved_student_is_without_adapters(flags, tmp_path):
    assert train_student.main([*flags, "--distill", ALL, "--steps", "2", "--out", str(tmp_path)]) == 0
    assert set(log_lines(tmp_path)[0]["train"]) == {
        "loss",
        "loss_gt",
        "loss_kd",
        "hint",
        "multiscale",
        "pkd",
        "attention",
        "similarity",
        "semckd",
        "rkd",
        "rkd_distance",
        "rkd_angle",
        "rkd_flow",
        "pointdistiller",
        "self",
        "self_flow",
        "self_feature",
        "online",
        "online_student",
        "online_peer",
        "online_peer_gt",
    }
    best, last = load(tmp_path / "best.pt"), load(tmp_path / "last.pt")
    expected = build_model("student-tiny").state_dict()
    assert set(best["model"]["state_dict"]) == set(last["model"]["state_dict"]) == set(expected)
    assert best["training"]["gamma"] == 0.3 and best["training"]["distill"][:2] == ["hint:1", "multiscale:0.5"]
    assert load_model(tmp_path / "best.pt").name == "student-tiny"
    assert last["resume"]["adapters"] and "resume" not in best


def test_a_stopped_run_with_adapters_goes_on_bit_for_bit(flags, tmp_path):
    given = [*flags, "--distill", ALL]
    assert train_student.main([*given, "--steps", "6", "--save-every", "1", "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "parts"

    save = Trainer._save

    def save_and_stop(trainer):
        save(trainer)
        if trainer.progress.step == 4:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(InterruptedError):
            train_student.main([*given, "--steps", "6", "--save-every", "1", "--out", str(out)])
    assert load(out / "last.pt")["training"]["step"] == 4
    torch.manual_seed(123)  # what the process did before does not matter
    assert train_student.main([*RESUME, str(out)]) == 0
    assert_same_run(out, tmp_path / "whole")


def test_resume_refuses_other_methods(flags, tmp_path):
    out = str(tmp_path)
    assert train_student.main([*flags, "--steps", "2", "--distill", "output,rkd", "--out", out]) == 0
    for changed, line in (
        (["--distill", "output"], "--distill was output,rkd when the run in .* began and is now output"),
        (["--gamma", "0.5"], "--gamma was not given when the run in .* began and is now 0.5"),
        (["--student", "half"], "--student was tiny when"),
    ):
        with pytest.raises(InputError, match=line):
            train_student.main([*changed, *RESUME, out])


def test_default_folders_tell_runs_apart(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(train_student, "PROJECT_ROOT", tmp_path)
    options = ["--distill", "output:0.5,pointdistiller+kept=8+reweight=off"]
    for given in (["--gamma", "0.5"], ["--distill", "output:0.5,hint@predictor/2:2"], ["--distill", "self"], options):
        assert train_student.main([*flags, "--steps", "1", *given]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "student_tiny-kitti-narrow-gamma0.5+hint@predictor.2-2-seed0",
        "student_tiny-kitti-narrow-gamma0.5+pointdistiller+kept=8+reweight=off-1-seed0",
        "student_tiny-kitti-narrow-gamma0.5-seed0",
        "student_tiny-kitti-scratch-gamma0+self-1-seed0",
    ]
