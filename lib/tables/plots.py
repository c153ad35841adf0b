"""Plots of groups of results: error against gamma, against size and time, and training curves."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.tables.results import Group, Measured, scored_on

ERROR = "EPE3D (m)"


def plot_all(groups: Sequence[Group], reports: dict[str, Sequence[float]], folder: Path, name: str) -> list[Path]:
    """Writes the plots that the groups have data for into ``folder``, each as PNG and SVG; returns the files.

    reports: the reports' figures by group, EPE3D first. name: the beginning of the files' names.
    """
    trained = [group for group in groups if group.runs and "training" in group.first]
    figures = {
        "gamma": against_gamma(trained, groups, reports),
        "pareto": against_cost(trained),
        "training": training_curves(trained),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, figure in figures.items():
        if figure is not None:
            for ending in ("png", "svg"):
                files.append(folder / f"{name}-{kind}.{ending}")
                figure.savefig(files[-1], dpi=150)
    return files


def against_gamma(trained: Sequence[Group], groups: Sequence[Group], reports: dict) -> Figure | None:
    """Error of students that learn by output distillation alone, against gamma; None for fewer than three gammas.

    A line a kind of run. The teacher and the baselines, scored on the data of the first, are horizontal lines; the
    reports' figures are dashed.
    """
    plain = [group for group in trained if _is_student(group) and not group.first["training"].get("distill")]
    series: dict[str, list[Group]] = {}
    for group in plain:
        series.setdefault(group.name.rpartition("-")[0], []).append(group)  # student-half-output0.3: of student-half
    series = {name: members for name, members in series.items() if len(members) > 2}
    if not series:
        return None
    figure, axes = _figure("gamma", ERROR)
    for name, members in series.items():
        members = sorted(members, key=_gamma)
        _with_errors(axes, [_gamma(g) for g in members], [g.metric("EPE3D") for g in members], name)
        known = [(_gamma(g), reports[g.name][0]) for g in members if g.name in reports]
        if known:
            axes.plot(*zip(*known, strict=True), "--s", color="gray", label=f"{name}, reports")
    data = scored_on(plain[0].first)
    for index, group in enumerate(groups):
        if group.runs and not _is_student(group) and scored_on(group.first) == data:
            axes.axhline(group.metric("EPE3D").mean, linestyle=":", color=f"C{index + 1}", label=group.name)
    axes.legend()
    return figure


def against_cost(trained: Sequence[Group]) -> Figure | None:
    """Error against parameters and against inference time; None where all networks have one size."""
    first = next((group for group in trained if _is_student(group)), None)
    members = [g for g in trained if scored_on(g.first) == scored_on(first.first)] if first else []
    if len({group.first["parameters"] for group in members if _is_student(group)}) < 2:
        return None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, label in zip(figure.subplots(1, 2), ("parameters (million)", "inference (ms a pair)"), strict=True):
        for kind in dict.fromkeys(map(_kind, members)):
            chosen = [group for group in members if _kind(group) == kind]
            if label.startswith("parameters"):
                across = [group.first["parameters"] / 1e6 for group in chosen]
            else:
                across = [group.seconds_per_pair() * 1000 for group in chosen]
            errors = [group.metric("EPE3D") for group in chosen]
            points = sorted(zip(across, errors, strict=True), key=lambda point: point[0])
            _with_errors(axes, [x for x, _ in points], [y for _, y in points], kind)
        axes.set(xlabel=label, ylabel=ERROR)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def training_curves(trained: Sequence[Group]) -> Figure | None:
    """Validation error against the step, the mean over seeds with a band of one deviation; None without logs."""
    members = [group for group in trained if _is_student(group) and all(run.log for run in group.runs)]
    if not members:
        return None
    figure, axes = _figure("step", f"validation {ERROR}")
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for group in members:
        by_step = [{line["step"]: line["validation"]["EPE3D"] for line in run.log} for run in group.runs]
        steps = sorted(set.intersection(*map(set, by_step)))
        values = [Measured.of([curve[step] for curve in by_step]) for step in steps]
        (drawn,) = axes.plot(steps, [value.mean for value in values], ".-", label=group.name.removeprefix("student-"))
        spread = [value.deviation or 0.0 for value in values]
        low = [value.mean - deviation for value, deviation in zip(values, spread, strict=True)]
        high = [value.mean + deviation for value, deviation in zip(values, spread, strict=True)]
        axes.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.15)
    axes.legend(fontsize="small")
    return figure


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _with_errors(axes: Axes, x: list[float], y: list[Measured], label: str) -> None:
    deviations = [value.deviation or 0.0 for value in y]
    axes.errorbar(x, [value.mean for value in y], deviations, fmt="o-", capsize=3, label=label)


def _gamma(group: Group) -> float:
    return group.first["training"]["gamma"]


def _is_student(group: Group) -> bool:
    return group.first.get("network", "teacher") != "teacher"


def _kind(group: Group) -> str:
    if not _is_student(group):
        return group.name
    methods = group.first["training"].get("distill", [])
    return "scratch" if _gamma(group) == 0 and not methods else " + ".join([f"gamma {_gamma(group):g}", *methods])
