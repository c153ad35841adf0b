"""experiments/make_tables.py: rows, means and deviations by hand, formats, plots, bad input."""

import csv
import io
import json

import pytest

from experiments import make_tables
from lib.errors import InputError
from lib.evaluation import UNITS
from lib.tables.formats import latex, markdown, title
from lib.tables.plots import against_cost, against_gamma, training_curves
from lib.tables.results import Measured, group_by_seed


def write(folder, name, epe, gamma=0.3, network="student", parameters=4_000_000, distill=(), steps=(), **protocol):
    """A result as evaluate.py writes it, as far as tables read it, and its log where ``steps`` are given."""
    result = {
        "network": network,
        "parameters": parameters,
        "training": {"gamma": gamma, "distill": list(distill)},
        "protocol": {"dataset": "synthetic-drive", "split": "test", "scenes": 64, "num_points": 512, **protocol},
        "metrics": dict.fromkeys(UNITS, 0.5) | {"EPE3D": epe},
        "seconds_per_pair": epe / 10,
    }
    (folder / f"{name}.json").write_text(json.dumps(result))
    lines = [{"step": step, "validation": {"EPE3D": epe / step}, "seconds": 2.5} for step in steps]
    if lines:
        (folder / f"{name}.log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_sweep(folder):
    """The runs of experiments/synthetic.sh but for gamma 0; a seed of gamma 1 is missing."""
    for gamma in ("1", "0.7", "0.5", "0.3", "0.1"):
        for seed, epe in enumerate((0.1, 0.2, 0.6)[: 2 if gamma == "1" else 3]):
            write(folder, f"student-half-output{gamma}-seed{seed}", epe, float(gamma), steps=(60, 120))
    write(folder, "teacher", 0.25, 0.0, "teacher", 8_000_000)


@pytest.fixture
def results(tmp_path, monkeypatch):
    for name in ("SEEDS", "RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESULTS", str(tmp_path))
    return tmp_path


def test_mean_and_sample_deviation():
    """Mean of 1, 2, 6 is 3; the squared differences 4, 1, 9 over n - 1 = 2 give 7."""
    assert Measured.of([1.0, 2.0, 6.0]) == Measured(3.0, pytest.approx(7**0.5))
    assert Measured.of([2.0]) == Measured(2.0, None)


def test_a_row_a_file(capsys):
    files = [make_tables.ROOT / "results/demo" / f"{name}.json" for name in ("zero-on-things", "teacher")]
    assert make_tables.main(list(map(str, files))) == 0
    lines = capsys.readouterr().out.splitlines()
    zero, teacher = (json.loads(file.read_text())["metrics"]["EPE3D"] for file in files)
    assert lines[0].startswith("| row | scored on | parameters | EPE3D (m) | ACC3DS |")
    assert lines[2].startswith(f"| zero-on-things | synthetic-things test, 64 scenes, 1024 points |  | {zero:.4f} |")
    assert lines[3].startswith(f"| teacher | synthetic-drive test, 64 scenes, 1024 points | 7.96 M | {teacher:.4f} |")


def test_an_experiment_over_seeds(results, capsys):
    write_sweep(results)
    assert make_tables.main(["synthetic"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert list(table)[-6:] == [f"student-half-output{gamma}" for gamma in ("1", "0.7", "0.5", "0.3", "0.1", "0")]
    row = table["student-half-output0.3"]
    assert row["seeds"] == "3" and row["parameters"] == "4.00 M"
    assert row["EPE3D (m)"] == "0.3000 ± 0.2646"  # 0.1, 0.2, 0.6
    assert row["ACC3DS"] == "0.5000 ± 0.0000"
    assert row["inference (ms)"] == "10.0"  # the least of 10, 20 and 60 ms
    assert row["training (s)"] == "5 ± 0"
    assert table["student-half-output1"]["seeds"] == "2 of 3"
    assert table["student-half-output1"]["EPE3D (m)"] == "0.1500 ± 0.0707"
    assert table["teacher"]["EPE3D (m)"] == "0.2500"
    assert set(table["student-half-output0"].values()) == {"student-half-output0", "not run", ""}
    assert table["zero"]["seeds"] == "not run"


def test_the_reports_figures_stand_below_ours(results, capsys):
    write(results, "student-kitti-from-ft3d-half-output0.3-seed0", 0.05, dataset="kitti")
    assert make_tables.main(["ft3d_teacher", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    at = [row["row"] for row in rows].index("student-kitti-from-ft3d-half-output0.3")
    ours, theirs = rows[at : at + 2]
    assert ours["EPE3D (m)"] == "0.05" and ours["EPE3D (m) sd"] == "" and ours["seeds"] == "1"
    assert theirs["row"] == "student-kitti-from-ft3d-half-output0.3, reports" and theirs["scored on"] == "KITTI"
    assert [theirs[title(name)] for name in UNITS] == ["0.039", "0.842", "0.961", "0.195", "1.937", "0.881"]
    assert rows[0]["seeds"] == "not run" and rows[1]["EPE3D (m)"] == "0.030"


def test_csv_is_not_rounded(results, capsys):
    write_sweep(results)
    assert make_tables.main(["synthetic", "--format", "csv"]) == 0
    row = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[-2]
    assert float(row["EPE3D (m)"]) == pytest.approx(0.3, abs=1e-12)
    assert float(row["EPE3D (m) sd"]) == pytest.approx(0.07**0.5, abs=1e-12)


def test_latex_and_markdown():
    rows = [{"row": "a_b & 10 %", "EPE3D (m)": (Measured(0.125, 0.01), 3)}, {"row": "c", "EPE3D (m)": "not run"}]
    assert latex(rows).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"row & EPE3D (m) \\",
        r"\midrule",
        r"a\_b \& 10 \% & $0.125 \pm 0.010$ \\",
        r"c & not run \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert markdown(rows).splitlines()[2] == "| a_b & 10 % | 0.125 ± 0.010 |"


def test_plots(results, capsys):
    write_sweep(results)
    folder = results / "plots"
    assert make_tables.main(["synthetic", "--plots", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {
        f"synthetic-{kind}.{ending}" for kind in ("gamma", "training") for ending in ("png", "svg")
    }
    assert (folder / "synthetic-gamma.png").read_bytes().startswith(b"\x89PNG")
    for seed in range(3):
        for size, parameters in (("half", 4_000_000), ("tiny", 300_000)):
            for gamma in (0.0, 0.3):
                name = f"student-{size}-output{gamma:g}-seed{seed}"
                write(results, name, 0.3 + gamma + 0.01 * seed, gamma, f"student-{size}", parameters)
    assert make_tables.main(["pareto", "--plots", str(folder)]) == 0
    assert (folder / "pareto-pareto.svg").stat().st_size > 5000
    assert "pareto-pareto.png" in capsys.readouterr().err


def test_what_the_plots_show(tmp_path):
    """The curve against gamma goes through the means, with the deviations as bars; the reports' points beside it."""
    write_sweep(tmp_path)
    groups = group_by_seed(sorted(tmp_path.glob("*.json")))
    (axes,) = against_gamma(groups, groups, {"student-half-output0.7": [0.081]}).axes
    bars = axes.containers[0]
    assert list(bars.lines[0].get_xdata()) == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert list(bars.lines[0].get_ydata()) == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.15])
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(0.07**0.5)
    shown = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert shown["student-half, reports"] == [0.081] and shown["teacher"] == [0.25, 0.25]
    for gamma in ("0", "0.3", "1"):
        write(tmp_path, f"student-ft3d-half-output{gamma}-seed0", 0.7, float(gamma))
    both = group_by_seed(sorted(tmp_path.glob("*.json")))
    (axes,) = against_gamma(both, both, {}).axes
    assert [len(bars.lines[0].get_xdata()) for bars in axes.containers] == [3, 5]  # each set of data has its own line
    assert against_cost(groups) is None  # one size of student
    (axes,) = training_curves([group for group in groups if group.name == "student-half-output0.5"]).axes
    assert list(axes.lines[0].get_xdata()) == [60, 120]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.3 / 60, 0.3 / 120])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "no such result: nowhere.json: evaluate.py --json writes them"),
        (["synthetic", "methods"], "one experiment at a time: synthetic or methods"),
        (
            ["README.md", "--plots", "x"],
            "--plots needs an experiment: synthetic, methods, pareto, real, longer, "
            "kitti_teacher, ft3d_teacher, remaining, first_report",
        ),
        (["README.md"], "README.md is no result: write it with evaluate.py --json"),
        (["synthetic", "--plots", "x"], "nothing to plot: no run of experiments/synthetic.sh has a result yet"),
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
            make_tables.main(["synthetic"])
        return str(error.value)

    name = results / "student-half-output1-seed0"
    for damaged in ('{"metrics": {"EPE3D": 1}}', "[]", "", '{"metrics": 3, "seconds_per_pair": 1, "protocol": {}}'):
        name.with_name(name.name + ".json").write_text(damaged)
        assert message() == f"{name}.json is no result: write it with evaluate.py --json"
    write(results, name.name, 0.1)
    name.with_name(name.name + ".log.jsonl").write_text('{"step": 1}\n')
    assert message() == f"{name}.log.jsonl is damaged: copy the run's log.jsonl again"
    name.with_name(name.name + ".log.jsonl").unlink()
    write(results, "student-half-output1-seed1", 0.1, num_points=1024)
    assert message() == (
        f"{results}/student-half-output1-seed1.json was scored on other data, or is of another network, than the "
        "other seeds"
    )


def test_an_unknown_name_exits_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_tables.py", "synthetics"])
    with pytest.raises(SystemExit) as exit_:
        make_tables.run_script(make_tables.main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: no such result: synthetics: evaluate.py --json writes them\n"
