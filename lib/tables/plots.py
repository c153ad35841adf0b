"""Plots of groups of results: the best metric against gamma, against size and time, and over training."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.tables.names import learned_by, row_name, scored_on, title, trained_on
from lib.tables.published import Published
from lib.tables.results import Group, Measured, best_metric


def plot_all(groups: Sequence[Group], published: Published, folder: Path, name: str) -> list[Path]:
    """Writes the plots that the groups have data for into ``folder``, each as PNG and SVG; returns the files.

    name: the beginning of the files' names.
    """
    there = [group for group in groups if group.runs]
    figures = {
        "gamma": against_gamma(there, published),
        "pareto": against_cost(there),
        "training": training_curves(there),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, figure in figures.items():
        if figure is not None:
            for ending in ("png", "svg"):
                files.append(folder / f"{name}-{kind}.{ending}")
                figure.savefig(files[-1], dpi=150)
    return files


def against_gamma(groups: Sequence[Group], published: Published) -> Figure | None:
    """The best metric of students that learn by output distillation alone, against gamma; None for under three gammas.

    A line a network and training set. The teacher and the baselines, scored on the data of the first, are horizontal
    lines; the published figures are dashed.
    """
    plain = [group for group in groups if group.student and not group.first["training"].get("distill")]
    series: dict[str, list[Group]] = {}
    for group in plain:
        series.setdefault(f"{group.first['network']}, {trained_on(group.first)}", []).append(group)
    series = {name: sorted(members, key=_gamma) for name, members in series.items() if len(members) > 2}
    if not series:
        return None
    best = best_metric(plain[0].first).name
    figure, axes = _figure("gamma", _label(plain[0]))
    for name, members in series.items():
        _with_errors(axes, [_gamma(g) for g in members], [g.metric(best) for g in members], name)
        known = [(_gamma(g), published.rows[g.name][1].get(best)) for g in members if g.name in published.rows]
        known = [(gamma, figure) for gamma, figure in known if figure is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "--s", color="gray", label=f"{name}, published")
    data = scored_on(plain[0].first)
    for index, group in enumerate(groups):
        if not group.student and scored_on(group.first) == data:
            axes.axhline(group.metric(best).mean, linestyle=":", color=f"C{index + 1}", label=row_name(group.first))
    axes.legend()
    return figure


def against_cost(groups: Sequence[Group]) -> Figure | None:
    """The best metric against parameters and against inference time; None where all students have one size."""
    first = next((group for group in groups if group.student), None)
    members = [g for g in groups if g.trained and scored_on(g.first) == scored_on(first.first)] if first else []
    if len({group.first["parameters"] for group in members if group.student}) < 2:
        return None
    best = best_metric(first.first).name
    costs: dict[str, Callable[[Group], float]] = {
        "parameters (million)": lambda group: group.first["parameters"] / 1e6,
        "inference (ms a sample)": lambda group: group.seconds_per_sample() * 1000,
    }
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (label, cost) in zip(figure.subplots(1, 2), costs.items(), strict=True):
        for kind in dict.fromkeys(map(_kind, members)):
            chosen = sorted((group for group in members if _kind(group) == kind), key=cost)
            _with_errors(axes, [cost(group) for group in chosen], [group.metric(best) for group in chosen], kind)
        axes.set(xlabel=label, ylabel=_label(first))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def training_curves(groups: Sequence[Group]) -> Figure | None:
    """The best metric on the validation part against the step; None without logs.

    The mean over seeds, with a band of one standard deviation.
    """
    members = [group for group in groups if group.student and all(run.log for run in group.runs)]
    if not members:
        return None
    best = best_metric(members[0].first).name
    figure, axes = _figure("step", f"validation {_label(members[0])}")
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    several_sets = len({trained_on(group.first) for group in members}) > 1
    for group in members:
        by_step = [{line["step"]: line["validation"][best] for line in run.log} for run in group.runs]
        steps = sorted(set.intersection(*map(set, by_step)))
        values = [Measured.of([curve[step] for curve in by_step]) for step in steps]
        label = row_name(group.first)
        label = f"{label}, {trained_on(group.first)}" if several_sets else label
        (drawn,) = axes.plot(steps, [value.mean for value in values], ".-", label=label)
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


def _label(group: Group) -> str:
    """The name of an axis: the best metric, its unit, and which way is better."""
    best = best_metric(group.first)
    return f"{title(best.name, group.first['units'][best.name])}, {best.better} is better"


def _gamma(group: Group) -> float:
    return group.first["training"].get("gamma", 0.0)


def _kind(group: Group) -> str:
    """How the networks of one line learned: all sizes of one recipe are joined."""
    return learned_by(group.first) if group.student else row_name(group.first)
