"""Groups of results as rows of a table, and the table as markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Sequence

from lib.evaluation import UNITS
from lib.tables.results import Group, Measured, scored_on

Cell = str | tuple[Measured, int]  # text, or a figure and its decimals
NOT_RUN = "not run"


def title(metric: str) -> str:
    """A metric with its unit, as the head of a column."""
    return f"{metric} ({UNITS[metric]})" if UNITS[metric] else metric


def plain_row(group: Group) -> dict[str, Cell]:
    """What was scored, on what, and the metrics."""
    parameters = group.first.get("parameters")
    return {
        "row": group.name,
        "scored on": scored_on(group.first),
        "parameters": "" if parameters is None else f"{parameters / 1e6:.2f} M",
        **{title(name): (group.metric(name), 4) for name in UNITS},
    }


def full_row(group: Group) -> dict[str, Cell]:
    """The plain row, the number of seeds, and the times. Where no run is there, a row that says so."""
    if not group.runs:
        columns = ["scored on", "parameters", *map(title, UNITS), "inference (ms)", "training (s)"]
        return {"row": group.name, "seeds": NOT_RUN, **dict.fromkeys(columns, "")}
    row = plain_row(group)
    there, expected = len(group.runs), len(group.expected)
    training = group.training_seconds()
    seeds = "" if "training" not in group.first else str(there) if there == expected else f"{there} of {expected}"
    return {
        "row": row.pop("row"),
        "seeds": seeds,
        **row,
        "inference (ms)": f"{group.seconds_per_pair() * 1000:.1f}" if "training" in group.first else "",
        "training (s)": (training, 0) if training else "",
    }


def report_row(name: str, values: Sequence[float], columns: Sequence[str]) -> dict[str, Cell]:
    """The reports' figures for the row ``name``, to stand under ours."""
    figures = {title(metric): f"{value:.3f}" for metric, value in zip(UNITS, values, strict=True)}
    return {column: figures.get(column, "") for column in columns} | {"row": f"{name}, reports", "scored on": "KITTI"}


def markdown(rows: Sequence[dict[str, Cell]]) -> str:
    """Rows with the same columns -> a markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_text(cell, "±") for cell in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(rows: Sequence[dict[str, Cell]]) -> str:
    """Rows with the same columns -> a LaTeX tabular with the rules of the package booktabs."""
    head, *body = (
        " & ".join(cells) + r" \\"
        for cells in [
            [_escaped(column) for column in rows[0]],
            *([_latex_cell(cell) for cell in row.values()] for row in rows),
        ]
    )
    lines = [r"\begin{tabular}{l" + "r" * (len(rows[0]) - 1) + "}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def comma_separated(rows: Sequence[dict[str, Cell]]) -> str:
    """Rows with the same columns -> CSV, unrounded; the deviation of a figure is a column of its own."""
    figures = {column for row in rows for column, cell in row.items() if isinstance(cell, tuple)}
    columns = [name for column in rows[0] for name in ([column, f"{column} sd"] if column in figures else [column])]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {}
        for column, cell in row.items():
            values[column] = cell[0].mean if isinstance(cell, tuple) else cell
            if isinstance(cell, tuple) and cell[0].deviation is not None:
                values[f"{column} sd"] = cell[0].deviation
        writer.writerow(values)
    return file.getvalue().rstrip("\n")


def _text(cell: Cell, sign: str) -> str:
    if isinstance(cell, str):
        return cell
    value, decimals = cell
    deviation = "" if value.deviation is None else f" {sign} {value.deviation:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{deviation}"


def _latex_cell(cell: Cell) -> str:
    return _escaped(cell) if isinstance(cell, str) else f"${_text(cell, chr(92) + 'pm')}$"


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in "&%$#_{}" else letter for letter in text)


FORMATS = {"markdown": markdown, "csv": comma_separated, "latex": latex}
