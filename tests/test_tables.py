"""Tables: one file a run, rows, means and deviations by hand, formats, plots, other tasks, bad input."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from experiments import join_run as join_script
from experiments import make_tables
from lib.errors import InputError
from lib.tables.formats import Figure, experiment_rows, latex, markdown
from lib.tables.names import row_name, teacher_trained_on, title, trained_on
from lib.tables.plots import against_cost, against_gamma, training_curves
from lib.tables.published import Published, read_published
from lib.tables.results import Measured, as_text, best_metric, group_by_seed, join_run, read_run

UNITS = {"EPE3D": "m", "ACC3DS": "", "ACC3DR": "", "Outliers3D": "", "EPE2D": "px", "ACC2D": ""}
AP = {"AP 3D": "%", "AP BEV": "%"}  # of a task that is not scene flow


def write(
    folder,
    name,
    value,
    gamma=0.3,
    network="student",
    parameters=4_000_000,
    distill=(),
    steps=(),
    data="synthetic-drive",
    units=UNITS,
    more=(),
    **protocol,
):
    """A result file as far as tables read it. ``value`` is the first metric; steps: those of the log."""
    best = next(iter(units))
    result = {
        "task": "scene-flow",
        "network": network,
        "parameters": parameters,
        "training": {"gamma": gamma, "distill": list(distill), "dataset": data, "scenes": 24},
        "protocol": {"dataset": "synthetic-drive", "split": "test", "scenes": 64, "num_points": 512, **protocol},
        "metrics": dict.fromkeys(units, 0.5) | {best: value},
        "units": units,
        "seconds_per_sample": value / 10,
        **dict(more),
    }
    if steps:
        result["log"] = [{"step": step, "validation": {best: value / step}, "seconds": 2.5} for step in steps]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result))
    return path


def write_detection(folder, name, value, **options):
    """A result of a made-up detection task: other metrics, more is better, no points in its protocol."""
    more = {"task": "lidar-detection", "sample": "frame", "best_metric": {"name": "AP 3D", "better": "higher"}}
    return write(folder, name, value, units=AP, more=more, dataset="kitti-object", num_points=None, **options)


def write_sweep(folder):
    """The runs of experiments/scene_flow/synthetic.sh but for gamma 0; a seed of gamma 1 is missing."""
    for gamma in ("1", "0.7", "0.5", "0.3", "0.1"):
        for seed, epe in enumerate((0.1, 0.2, 0.6)[: 2 if gamma == "1" else 3]):
            write(folder, f"student-half-output{gamma}-seed{seed}", epe, float(gamma), steps=(60, 120))
    write(folder, "teacher", 0.25, 0.0, "teacher", 8_000_000)


def printed(capsys) -> dict[str, dict[str, str]]:
    """The markdown table on standard output: row -> column -> cell."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


@pytest.fixture
def results(tmp_path, monkeypatch):
    for name in ("SEEDS", "RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESULTS", str(tmp_path))
    return tmp_path


# ---- one file a run ----


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"flags": {"student": "half"}, "resumed": []}, indent=2))
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 1e-05}\n')
    return folder


def test_a_run_becomes_one_file(run_folder, tmp_path):
    """Every value of the three files is in it, exactly; joined twice it is the same; records are a line each."""
    score = {"metrics": {"EPE3D": 0.1 + 0.2}, "scenes": [{"name": "a", "EPE3D": 1 / 3}, {"name": "b", "EPE3D": 2.0}]}
    path = tmp_path / "score.json"
    path.write_text(json.dumps(score, indent=2))
    assert join_script.main([str(run_folder), str(path)]) == 0
    config = json.loads((run_folder / "config.json").read_text())
    log = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1e-05}]
    assert json.loads(path.read_text()) == score | {"config": config, "log": log}
    lines = path.read_text().splitlines()
    assert '{"name": "a", "EPE3D": 0.3333333333333333},' in lines and '{"step": 2, "loss": 1e-05}' in lines
    before = path.read_bytes()
    join_run(run_folder, path)
    assert path.read_bytes() == before


def test_a_run_without_a_score_is_config_and_log(run_folder, tmp_path):
    join_run(run_folder, tmp_path / "new.json")
    assert list(json.loads((tmp_path / "new.json").read_text())) == ["config", "log"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run/config.json", None, "cannot read {}: No such file or directory"),
        ("run/log.jsonl", '{"step": 1}\n{"st', "{} is damaged: make it again"),
        ("score.json", "{", "{} is damaged: make it again"),
        ("score.json", "[]", "{} holds several results: score one checkpoint a file"),
    ],
)
def test_a_run_that_cannot_be_joined_leaves_the_score_as_it_is(run_folder, tmp_path, capsys, file, content, message):
    score = tmp_path / "score.json"
    score.write_text('{"metrics": {}}')
    path = tmp_path / file
    path.unlink() if content is None else path.write_text(content)
    before = score.read_text()
    assert join_script.main([str(run_folder), str(score)]) == 2
    assert capsys.readouterr().err == f"error: {message.format(path)}\n"
    assert score.read_text() == before


def test_the_text_of_a_result_is_json():
    result = {"a": [], "b": [{"x": 1}, {"y": None}], "c": [1, 2], "d": {"e": [{"f": 1.5}]}, "ü": "é\n"}
    assert json.loads(as_text(result)) == result
    assert as_text(result).splitlines()[2:6] == ['"b": [', '{"x": 1},', '{"y": null}', "],"]


def test_every_result_in_the_repository_is_read():
    """A file is a score, a run (with config and log), or a training alone (terms); nothing lies beside."""
    for path in sorted((make_tables.ROOT / "results/scene_flow").rglob("*")):
        if path.is_dir() or path.parent.name == "benchmark" or path.name == "flow.png":
            continue
        result = json.loads(path.read_text())
        assert as_text(result) == path.read_text(), path
        assert ("config" in result) == ("log" in result), path
        if path.parent.name != "terms":
            assert read_run(path).log == result.get("log", [])
            assert all(set(scene) == {"name", *result["metrics"]} for scene in result["scenes"]), path


# ---- rows ----


def test_mean_and_sample_deviation():
    """Mean of 1, 2, 6 is 3; the squared differences 4, 1, 9 over n - 1 = 2 give 7."""
    assert Measured.of([1.0, 2.0, 6.0]) == Measured(3.0, pytest.approx(7**0.5))
    assert Measured.of([2.0]) == Measured(2.0, None)


@pytest.mark.parametrize(
    ("result", "name"),
    [
        ({"baseline": "zero"}, "zero (baseline)"),
        ({"network": "teacher", "training": {"gamma": 0.0, "distill": []}}, "teacher"),
        ({"network": "pointpillars", "training": {}}, "pointpillars"),
        ({"network": "student", "training": {"gamma": 0.0, "distill": []}}, "student, from scratch (gamma 0)"),
        ({"network": "student-tiny", "training": {"gamma": 1.0}}, "student-tiny, gamma 1 (no labels)"),
        (
            {"network": "student", "training": {"gamma": 0.3, "distill": ["multiscale@pyramid1:8", "rkd:2"]}},
            "student, gamma 0.3 + 8 multiscale@pyramid1 + 2 rkd",
        ),
        ({"network": "small", "training": {"gamma": 0.0, "distill": ["self:1"]}}, "small, gamma 0 + 1 self"),
        (
            {"network": "small", "training": {"gamma": 0.0}, "config": {"flags": {"student": "small"}}},
            "small, from scratch (gamma 0)",
        ),
    ],
)
def test_names_of_rows(result, name):
    assert row_name(result) == name


def test_names_of_data():
    facts = {"dataset": "kitti", "scenes": 100}
    assert trained_on({"training": facts}) == "100 kitti scenes" and trained_on({"baseline": "zero"}) == ""
    assert (
        trained_on({"training": {"dataset": "kitti"}})
        == "kitti"
        == teacher_trained_on({"training": {"teacher": {"dataset": "kitti"}}})
    )
    assert teacher_trained_on({"training": {"teacher": facts}, "sample": "frame"}) == "100 kitti frames"
    assert title("EPE3D", "m") == "EPE3D (m)" and title("ACC2D", "") == "ACC2D"


def test_a_row_a_file(capsys):
    files = [make_tables.ROOT / "results/scene_flow/demo" / f"{name}.json" for name in ("zero-on-things", "teacher")]
    assert make_tables.main(list(map(str, files))) == 0
    table = printed(capsys)
    zero, teacher = (json.loads(file.read_text())["metrics"]["EPE3D"] for file in files)
    assert list(table) == ["zero (baseline)", "teacher"]
    assert list(table["teacher"])[:6] == ["row", "trained on", "scored on", "parameters", "EPE3D (m)", "ACC3DS"]
    assert table["zero (baseline)"]["scored on"] == "synthetic-things test, 64 scenes, 1024 points"
    assert table["zero (baseline)"]["EPE3D (m)"] == f"{zero:.3f}" and table["zero (baseline)"]["parameters"] == ""
    assert table["teacher"]["trained on"] == "96 synthetic-things scenes"
    assert table["teacher"]["EPE3D (m)"] == f"{teacher:.3f}" and table["teacher"]["parameters"] == "7.96 M"


def test_an_experiment_over_seeds(results, capsys):
    write_sweep(results)
    assert make_tables.main(["scene_flow/synthetic"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Scored on: synthetic-drive test, 64 scenes, 512 points.\n\n| row |")
    assert err == (
        "not run: teacher-on-things, zero-on-things, nearest-on-things, zero, nearest, student-half-output0\n"
    )
    assert make_tables.main(["scene_flow/synthetic"]) == 0
    table = printed(capsys)
    students = [f"student, gamma {gamma}" for gamma in ("1 (no labels)", "0.7", "0.5", "0.3", "0.1")]
    assert list(table) == ["teacher", *students]  # only what was run
    row = table["student, gamma 0.3"]
    assert row["seeds"] == "3" and row["parameters"] == "4.00 M" and row["trained on"] == "24 synthetic-drive scenes"
    assert row["EPE3D (m)"] == "0.300 ± 0.265"  # 0.1, 0.2, 0.6
    assert row["ACC3DS"] == "0.500 ± 0.000"
    assert row["inference (ms)"] == "10.0"  # the least of 10, 20 and 60 ms
    assert row["training (s)"] == "5 ± 0"
    assert table["student, gamma 1 (no labels)"]["seeds"] == "2 of 3"
    assert table["student, gamma 1 (no labels)"]["EPE3D (m)"] == "0.150 ± 0.071"
    assert table["teacher"]["EPE3D (m)"] == "0.250"


def test_the_published_figures_stand_below_ours(results, capsys):
    write(results, "student-kitti-from-ft3d-half-output0.3-seed0", 0.05, dataset="kitti")
    assert make_tables.main(["scene_flow/ft3d_teacher", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    at = [row["row"] for row in rows].index("student, gamma 0.3")
    ours, theirs = rows[at : at + 2]
    assert ours["EPE3D (m)"] == "0.05" and ours["EPE3D (m) sd"] == "" and ours["seeds"] == "1"
    assert theirs["row"] == "student, gamma 0.3, published" and theirs["scored on"] == "KITTI"
    figures = [float(theirs[title(name, unit)]) for name, unit in UNITS.items()]
    assert figures == [0.039, 0.842, 0.961, 0.195, 1.937, 0.881]
    assert rows[0]["row"] == "teacher, published" and float(rows[0]["EPE3D (m)"]) == 0.03 and rows[0]["seeds"] == ""


def test_published_figures_alone(results, capsys):
    assert make_tables.main(["scene_flow/first_report"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "Scored on: KITTI.\n\n| row | EPE3D (m) | ACC3DS | ACC3DR | Outliers3D | EPE2D (px) | ACC2D |"
    )
    assert "| teacher, published | 0.050 | 0.869 | 0.940 | 0.177 | 1.771 | 0.896 |" in out


def test_rows_that_would_read_alike_name_their_files(tmp_path):
    for name in ("student-from-a-seed0", "student-from-b-seed0", "other-seed0"):
        write(tmp_path, name, 0.1, gamma=0.5 if name.startswith("other") else 0.3)
    rows = experiment_rows(group_by_seed(sorted(tmp_path.glob("*.json"))), Published())
    assert [row["row"] for row in rows] == [
        "student, gamma 0.5",
        "student, gamma 0.3 [student-from-a]",
        "student, gamma 0.3 [student-from-b]",
    ]


def test_csv_is_not_rounded(results, capsys):
    write_sweep(results)
    assert make_tables.main(["scene_flow/synthetic", "--format", "csv"]) == 0
    row = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[-1]
    assert row["row"] == "student, gamma 0.1"
    assert float(row["EPE3D (m)"]) == pytest.approx(0.3, abs=1e-12)
    assert float(row["EPE3D (m) sd"]) == pytest.approx(0.07**0.5, abs=1e-12)


def test_latex_and_markdown():
    rows = [
        {"row": "a_b & 10 %", "scored on": "x", "seeds": "", "EPE3D (m)": Figure(Measured(0.125, 0.01), 3)},
        {"row": "c", "scored on": "x", "seeds": "", "EPE3D (m)": "none"},
    ]
    assert latex(rows).splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"row & scored on & seeds & EPE3D (m) \\",
        r"\midrule",
        r"a\_b \& 10 \% & x &  & $0.125 \pm 0.010$ \\",
        r"c & x &  & none \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert markdown(rows).splitlines() == [
        "Scored on: x.",
        "",
        "| row | EPE3D (m) |",
        "| --- | --- |",
        "| a_b & 10 % | 0.125 ± 0.010 |",
        "| c | none |",
    ]


# ---- other tasks ----


def test_a_table_of_another_task_has_its_own_metrics(tmp_path, capsys):
    files = [write_detection(tmp_path, name, value) for name, value in (("a", 71.25), ("b", 70.0))]
    assert make_tables.main([str(files[0])]) == 0
    row = printed(capsys)["student, gamma 0.3"]
    assert list(row)[-2:] == ["AP 3D (%)", "AP BEV (%)"] and row["AP 3D (%)"] == "71.250"
    assert row["scored on"] == "kitti-object test, 64 frames"
    assert best_metric(read_run(files[1]).result) == ("AP 3D", "higher")


def test_one_table_holds_one_task(tmp_path):
    flow, boxes = write(tmp_path, "flow", 0.1), write_detection(tmp_path, "boxes", 70.0)
    other = write(tmp_path, "other", 0.1, units={"EPE3D": "m"})
    message = "flow is of scene-flow, boxes of lidar-detection: make a table a task"
    with pytest.raises(InputError, match=message):
        make_tables.main([str(flow), str(boxes)])
    with pytest.raises(InputError, match=message):
        group_by_seed([flow, boxes])
    with pytest.raises(InputError, match="flow and other have other metrics: score both with one version"):
        make_tables.main([str(flow), str(other)])


def test_plots_of_another_task_say_which_way_is_better(tmp_path):
    for gamma in (0.0, 0.3, 1.0):
        write_detection(tmp_path, f"student-{gamma:g}-seed0", 70 + gamma, gamma=gamma, steps=(10, 20))
    groups = group_by_seed(sorted(tmp_path.glob("*.json")))
    (axes,) = against_gamma(groups, Published()).axes
    assert axes.get_ylabel() == "AP 3D (%), higher is better"
    assert list(axes.containers[0].lines[0].get_ydata()) == [70.0, 70.3, 71.0]
    (axes,) = training_curves(groups).axes
    assert axes.get_ylabel() == "validation AP 3D (%), higher is better"
    assert list(axes.lines[0].get_ydata()) == pytest.approx([7.0, 3.5])


# ---- plots ----


def test_plots(results, capsys):
    write_sweep(results)
    folder = results / "plots"
    assert make_tables.main(["scene_flow/synthetic", "--plots", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {
        f"synthetic-{kind}.{ending}" for kind in ("gamma", "training") for ending in ("png", "svg")
    }
    assert (folder / "synthetic-gamma.png").read_bytes().startswith(b"\x89PNG")
    for seed in range(3):
        for size, parameters in (("half", 4_000_000), ("tiny", 300_000)):
            for gamma in (0.0, 0.3):
                name = f"student-{size}-output{gamma:g}-seed{seed}"
                write(results, name, 0.3 + gamma + 0.01 * seed, gamma, f"student-{size}", parameters)
    assert make_tables.main(["scene_flow/pareto", "--plots", str(folder)]) == 0
    assert (folder / "pareto-pareto.svg").stat().st_size > 5000
    assert "pareto-pareto.png" in capsys.readouterr().err


def test_what_the_plots_show(tmp_path):
    """The curve against gamma goes through the means, with the deviations as bars; published points beside it."""
    write_sweep(tmp_path)
    groups = group_by_seed(sorted(tmp_path.glob("*.json")))
    published = Published("KITTI", UNITS, {"student-half-output0.7": ("student", {"ACC3DS": 0.6, "EPE3D": 0.081})})
    (axes,) = against_gamma(groups, published).axes
    assert axes.get_ylabel() == "EPE3D (m), lower is better"
    bars = axes.containers[0]
    assert list(bars.lines[0].get_xdata()) == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert list(bars.lines[0].get_ydata()) == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.15])
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(0.07**0.5)
    shown = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert shown["student, 24 synthetic-drive scenes, published"] == [0.081] and shown["teacher"] == [0.25, 0.25]
    for gamma in ("0", "0.3", "1"):
        write(tmp_path, f"student-ft3d-half-output{gamma}-seed0", 0.7, float(gamma), data="ft3d")
    both = group_by_seed(sorted(tmp_path.glob("*.json")))
    (axes,) = against_gamma(both, Published()).axes
    assert [len(bars.lines[0].get_xdata()) for bars in axes.containers] == [3, 5]  # each training set has its own line
    assert against_cost(groups) is None  # one size of student
    (axes,) = training_curves([group for group in groups if group.name == "student-half-output0.5"]).axes
    assert list(axes.lines[0].get_xdata()) == [60, 120]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.3 / 60, 0.3 / 120])


def test_the_error_against_size_and_time(tmp_path):
    """Students that learned alike are one line, from the smallest to the largest; the teacher stands alone."""
    for network, parameters, epe in (("student-tiny", 300_000, 0.5), ("student", 4_000_000, 0.4)):
        write(tmp_path, f"{network}-seed0", epe, 0.3, network, parameters)
    write(tmp_path, "teacher", 0.25, 0.0, "teacher", 8_000_000)
    by_size, by_time = against_cost(group_by_seed(sorted(tmp_path.glob("*.json")))).axes
    line = by_size.containers[0].lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.3, 4.0], [0.5, 0.4])
    assert list(by_time.containers[0].lines[0].get_xdata()) == pytest.approx([40, 50])
    assert [text.get_text() for text in by_size.get_legend().get_texts()] == ["gamma 0.3", "teacher"]


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "no such experiment or result: nowhere.json (see make_tables.py --help)"),
        (
            ["scene_flow/synthetic", "scene_flow/methods"],
            "one experiment at a time: scene_flow/synthetic or scene_flow/methods",
        ),
        (["README.md", "--plots", "x"], f"--plots needs an experiment: {', '.join(make_tables.EXPERIMENTS)}"),
        (["README.md"], "README.md is no result: write it with evaluate.py --json"),
        (
            ["scene_flow/synthetic"],
            "no run of this experiment has a result yet: start bash experiments/scene_flow/synthetic.sh",
        ),
        (
            ["scene_flow/kitti_teacher", "--plots", "x"],
            "no run of this experiment has a result yet: start bash experiments/scene_flow/kitti_teacher.sh",
        ),
    ],
)
def test_bad_input(results, monkeypatch, arguments, message):
    monkeypatch.chdir(make_tables.ROOT)
    with pytest.raises(InputError) as error:
        make_tables.main(arguments)
    assert str(error.value) == message


def test_bad_results(results):
    def message():
        with pytest.raises(InputError) as error:
            make_tables.main(["scene_flow/synthetic"])
        return str(error.value)

    path = results / "student-half-output1-seed0.json"
    for damaged in ('{"metrics": {"EPE3D": 1}}', "[]", "", '{"metrics": 3, "seconds_per_sample": 1, "protocol": {}}'):
        path.write_text(damaged)
        assert message() == f"{path} is no result: write it with evaluate.py --json"
    for change in (
        {"best_metric": {"name": "AP", "better": "higher"}},
        {"best_metric": {"name": "EPE3D", "better": "less"}},
        {"best_metric": "EPE3D"},
        {"units": {"EPE3D": "m"}},
        {"metrics": dict.fromkeys(UNITS)},
        {"task": None},
        {"protocol": {"dataset": "kitti"}},
        {"config": []},
    ):
        write(results, path.stem, 0.1, more=change)
        assert message() == f"{path} is no result: write it with evaluate.py --json", change
    for log in ([{"step": 1}], [3], 3, {"step": 1}):
        write(results, path.stem, 0.1, more={"log": log})
        assert message() == f"the log in {path} is damaged: add it again with experiments/join_run.py"
    write(results, path.stem, 0.1)
    write(results, "student-half-output1-seed1", 0.1, num_points=1024)
    assert message() == (
        f"{results}/student-half-output1-seed1.json was scored on other data, or is of another network, than the "
        "other seeds"
    )


def test_bad_published_figures(tmp_path):
    path = tmp_path / "published.json"
    assert read_published(path, "table") == Published()
    content = {"scored on": "KITTI", "units": {"EPE3D": "m"}, "tables": {"table": {"a": {"row": "r", "figures": [1]}}}}
    path.write_text(json.dumps(content))
    assert read_published(path, "table") == Published("KITTI", {"EPE3D": "m"}, {"a": ("r", {"EPE3D": 1.0})})
    assert read_published(path, "another").rows == {}
    content["tables"]["table"]["a"]["figures"] = [1, 2]
    for text in (json.dumps(content), "{", "[]", '{"units": {}}'):
        path.write_text(text)
        with pytest.raises(InputError, match="published.json is damaged: take it from the repository again"):
            read_published(path, "table")


def test_an_unknown_name_exits_with_status_2():
    command = [sys.executable, "experiments/make_tables.py", "synthetics"]
    done = subprocess.run(command, cwd=make_tables.ROOT, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such experiment or result: synthetics (see make_tables.py --help)\n"
