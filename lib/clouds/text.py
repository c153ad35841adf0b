"""Tables of numbers: .txt, .csv and .xyz files, and the bodies of ASCII PLY and PCD files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.errors import InputError

COMMENTS = ("#", "//")
LONGEST_SHOWN = 120  # letters of a file that a message repeats
SEPARATORS = (";", ",")  # else white space
# Names of a column with the reflectance, in small letters; CloudCompare puts scalar_ before what it exports.
REFLECTANCE = ("reflectance", "intensity", "scalar_reflectance", "scalar_intensity")


def read_text(path: Path, reflectance: bool = False) -> np.ndarray:
    """A table of numbers as (N, 3) float64; with ``reflectance`` (N, 4) where there is one.

    If the first line names columns x, y and z, these are taken, else the first three columns. The reflectance is the
    column of that name; in a table of four columns without names it is the fourth. Columns are separated by
    white space, commas or semicolons. Empty lines and lines that begin with # or // are left out. Raises an InputError
    that names the line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; its ending says it is one") from None
    numbered = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith(COMMENTS)
    ]
    if not numbered:
        raise InputError(f"{path} holds no points")
    separator = next((s for s in SEPARATORS if s in numbered[0][1]), None)
    words = [word.strip().strip('"').lower() for word in numbered[0][1].split(separator)]
    columns = (0, 1, 2)
    more = (3,) if len(words) == 4 else ()
    if not any(_is_number(word) for word in words):
        del numbered[0]
        if {"x", "y", "z"} <= set(words):
            columns = tuple(words.index(name) for name in "xyz")
        more = reflectance_columns(words)
        if not numbered:
            raise InputError(f"{path} holds no points")
    columns = (*columns, *more) if reflectance else columns
    return parse_table(path, numbered, columns, len(numbered[0][1].split(separator)), separator)


def reflectance_columns(names: Sequence[str]) -> tuple[int, ...]:
    """The place of the column that holds the reflectance, by the columns' names; empty where there is none."""
    return tuple(k for k, name in enumerate(names) if name.lower() in REFLECTANCE)[:1]


def body_lines(path: Path, content: bytes, start: int) -> list[tuple[int, str]]:
    """The lines of an ASCII body that begins at byte `start`: (line number in the file, text), without empty ones.

    Raises InputError when the body is not ASCII.
    """
    try:
        lines = content[start:].decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} says it is ASCII, but its body is binary") from None
    first = len(content[:start].splitlines()) + 1
    return [(number, line) for number, line in enumerate(lines, first) if line.strip()]


def parse_table(
    path: Path, numbered: Sequence[tuple[int, str]], columns: Sequence[int], width: int, separator: str | None = None
) -> np.ndarray:
    """The named columns of the lines [(line number in the file, text)] as (N, number of columns) float64.

    width: how many columns each line must have; separator None is white space. Raises InputError that names the first
    line with another number of columns or with a word that is no number.
    """
    if width < 3:
        raise InputError(f"{path} line {numbered[0][0]} has {width} column(s); a point needs x, y and z")
    try:
        table = np.loadtxt([line for _, line in numbered], delimiter=separator, comments=None, ndmin=2)
        if table.shape[1] == width:
            return table[:, list(columns)]
    except ValueError:
        pass  # the lines are looked at one by one below, to say which one it is
    for number, line in numbered:
        words = line.split(separator)
        if len(words) != width:
            raise InputError(f"{path} line {number} has {len(words)} column(s) where {width} are expected")
        wrong = next((word.strip() for word in words if not _is_number(word)), None)
        if wrong is not None:
            raise InputError(f"{path} line {number}: {_shown(wrong)} is not a number")
    raise InputError(f"{path} is not a table of numbers")


def printable(words: Sequence[str]) -> str:
    """Words of a damaged header for a message of one line: joined by commas, with ? for what no terminal can show."""
    return "".join(letter if letter.isprintable() else "?" for letter in ", ".join(words))[:LONGEST_SHOWN]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _shown(word: str) -> str:
    return repr(word if len(word) <= 20 else word[:20] + "...")
