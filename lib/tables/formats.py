"""Groups of results as rows of a table, and the table as markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from lib.tables.names import headline, row_name, scored_on, teacher_trained_on, title, trained_on
from lib.tables.published import Published
from lib.tables.results import Group, Measured


class Figure(NamedTuple):
    """A measured value, and the decimals that a reader is shown."""

    value: Measured
    decimals: int


Cell = str | Figure
Row = dict[str, Cell]
DECIMALS = 3  # of a metric
WHAT = ("row", "trained on", "teacher trained on", "scored on")  # the columns that tell rows apart
SAID_ONCE = ("scored on", "teacher trained on")  # columns that markdown replaces by a line where all rows agree


def result_row(group: Group) -> Row:
    """The row of a group that was run: what was scored, on what, and the metrics of the headline."""
    result = group.first
    parameters = result.get("parameters")
    return {
        "row": row_name(result),
        "trained on": trained_on(result),
        "scored on": scored_on(result),
        "parameters": "" if parameters is None else f"{parameters / 1e6:.2f} M",
        **{title(name, unit): Figure(group.metric(name), DECIMALS) for name, unit in headline(result).items()},
    }


def experiment_row(group: Group) -> Row:
    """The row of a group that was run, with its teacher's data, the number of seeds, and the times."""
    result, row = group.first, result_row(group)
    there, expected, training = len(group.runs), len(group.expected), group.training_seconds()
    return {
        "row": row.pop("row"),
        "trained on": row.pop("trained on"),
        "teacher trained on": teacher_trained_on(result),
        "scored on": row.pop("scored on"),
        "seeds": "" if not group.trained else str(there) if there == expected else f"{there} of {expected}",
        **row,
        "inference (ms)": f"{group.seconds_per_sample() * 1000:.1f}" if group.trained else "",
        "training (s)": Figure(training, 0) if training else "",
    }


def experiment_rows(groups: Sequence[Group], published: Published) -> list[Row]:
    """A row for each group that was run, the published figures below ours.

    Where both are there, ours takes the published row's name. Rows that would read alike get their files' name too.
    """
    rows: list[tuple[str, Row]] = []
    for group in groups:
        name, figures = published.rows.get(group.name, ("", {}))
        if group.runs:
            row = experiment_row(group)
            rows.append((group.name, row | {"row": name or row["row"]}))
        if figures:
            cells = {
                title(metric, published.units[metric]): Figure(Measured(figure), DECIMALS)
                for metric, figure in figures.items()
            }
            rows.append((group.name, {"row": f"{name}, published", "scored on": published.scored_on, **cells}))
    longest = max((row for _, row in rows), key=len, default={})  # one of ours, where there is one
    columns = dict.fromkeys([*WHAT, *longest])
    rows = [(name, {column: row.get(column, "") for column in columns}) for name, row in rows]
    read = [tuple(row[column] for column in WHAT) for _, row in rows]
    for (name, row), text in zip(rows, read, strict=True):
        if read.count(text) > 1:
            row["row"] = f"{row['row']} [{name}]"
    return [row for _, row in rows]


def markdown(rows: Sequence[Row]) -> str:
    """Rows with the same columns -> a markdown table. Columns without an entry are left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    said = {column: {row[column] for row in rows} - {""} for column in SAID_ONCE if column in columns}
    once = {column: next(iter(texts)) for column, texts in said.items() if len(texts) == 1 and len(rows) > 1}
    columns = [column for column in columns if column not in once]
    lines = [columns, ["---"] * len(columns), *([_text(row[column], "±") for column in columns] for row in rows)]
    told = [f"{column.capitalize()}: {text}.\n" for column, text in once.items()]
    return "\n".join([*told, *("| " + " | ".join(line) + " |" for line in lines)])


def latex(rows: Sequence[Row]) -> str:
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


def comma_separated(rows: Sequence[Row]) -> str:
    """Rows with the same columns -> CSV, unrounded; the deviation of a figure is a column of its own."""
    figures = {column for row in rows for column, cell in row.items() if isinstance(cell, Figure)}
    columns = [name for column in rows[0] for name in ([column, f"{column} sd"] if column in figures else [column])]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {}
        for column, cell in row.items():
            values[column] = cell.value.mean if isinstance(cell, Figure) else cell
            if isinstance(cell, Figure) and cell.value.deviation is not None:
                values[f"{column} sd"] = cell.value.deviation
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
