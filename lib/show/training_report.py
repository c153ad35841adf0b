"""The report page of a training run: its curves and its settings, out of log.jsonl and config.json.

Its charts are SVG, not Plotly: Plotly's program alone is 4.8 MB a page, and runs are many. The page is some 100 kB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from lib.show.charts import BLUE, GREEN, ORANGE, charts
from lib.show.page import folded, note, page, section, table, tiles

Curve = Callable[[Axes], None]


def training_report(
    name: str, config: dict[str, Any], records: list[dict[str, Any]], best_metric: str, units: dict[str, str]
) -> bytes:
    """The page. name: the run's. config: of config.json; records: the lines of log.jsonl, at least one, in order.

    best_metric: the one that chose the checkpoint; units: metric -> unit, of the metrics that are shown.
    """
    best = [record for record in records if record["best"]][-1]  # each was better than those before it
    last = records[-1]
    seconds = sum(record["seconds"] for record in records)

    def shown(record: dict[str, Any]) -> dict[str, float]:
        return {metric: record["validation"][metric] for metric in units}

    numbers = [(metric, f"{value:.4f} {units[metric]}".rstrip()) for metric, value in shown(best).items()]
    run = [("steps", f"{last['step']:,}"), ("epochs", f"{last['epoch']:g}"), ("time", _duration(seconds))]
    flags, where = config["flags"], config["provenance"]
    terms = [term for term in last["train"] if all(term in record["train"] for record in records)]
    losses = charts(*(_curve(records, "train", term, BLUE, "") for term in terms))
    scores = charts(*(_curve(records, "validation", metric, GREEN, units[metric], best["step"]) for metric in units))
    facts = [("command", where["command"]), ("time", where["time"]), ("git commit", where["git"])]
    facts += [
        (kind, ", ".join(f"{key}: {value}" for key, value in where[kind].items() if value))
        for kind in ("versions", "machine")
    ]
    resumed = [again["provenance"] for again in config["resumed"]]
    facts += [(f"resumed, {again['time']}", again["command"]) for again in resumed]
    head = ["step", "epoch", "learning rate", *terms, *units, ""]
    rows = [
        (
            record["step"],
            f"{record['epoch']:g}",
            f"{record['lr']:.3g}",
            *(f"{record['train'][term]:.4f}" for term in terms),
            *(f"{value:.4f}" for value in shown(record).values()),
            "best" if record["best"] else "",
        )
        for record in records
    ]
    sections = [
        section(
            f"Best checkpoint, step {best['step']:,}",
            tiles(numbers),
            note(f"On the validation part, which is held out of training; {best_metric} chose the step."),
        ),
        section("The run", tiles(run)),
        section(
            "Training losses",
            losses,
            note(
                'Means over the steps since the evaluation before. "loss" is what is '
                "minimised; its terms stand without their weights."
            ),
        ),
        section("Validation", scores, note("The dashed line is the best checkpoint.")),
        section("Learning rate and pace", charts(_rate(records), _pace(records))),
        section("Settings", table((f"--{flag.replace('_', '-')}", value) for flag, value in flags.items())),
        section("How this was made", table(facts)),
        section("Every evaluation", folded(f"{len(rows)} lines", table(rows, head))),
    ]
    title = f"Training: {flags['dataset']}, {last['step']:,} steps"
    return page(title, name, sections)


def _curve(
    records: list[dict[str, Any]], group: str, name: str, colour: str, unit: str, best: int | None = None
) -> Curve:
    def draw(axes: Axes) -> None:
        values = [record[group][name] for record in records]
        marker = "o" if len(records) < 30 else ""
        axes.plot([record["step"] for record in records], values, color=colour, marker=marker, markersize=3)
        if best is not None:
            axes.axvline(best, color="#999999", linestyle="--", linewidth=0.8)
        axes.set(title=f"{name} ({unit})" if unit else name, xlabel="step")

    return draw


def _rate(records: list[dict[str, Any]]) -> Curve:
    def draw(axes: Axes) -> None:
        steps, rates = [record["step"] for record in records], [record["lr"] for record in records]
        axes.step(steps, rates, where="pre", color=ORANGE)
        axes.set(title="learning rate", xlabel="step", ylim=(0, None))

    return draw


def _pace(records: list[dict[str, Any]]) -> Curve:
    def draw(axes: Axes) -> None:
        before = [0, *(record["step"] for record in records[:-1])]
        pace = [
            (record["step"] - start) / max(record["seconds"], 1e-3)
            for record, start in zip(records, before, strict=True)
        ]
        axes.step([record["step"] for record in records], pace, where="pre", color=ORANGE)
        axes.set(title="steps a second, with the evaluation", xlabel="step", ylim=(0, None))

    return draw


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
