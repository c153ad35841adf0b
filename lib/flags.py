"""Parts of command lines: the parser, the types of flags, and the check of a file to be written."""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from lib.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help keeps the epilog's lines and shows defaults."""

    class _Help(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            says_it = action.default is None or action.default is False or action.default is argparse.SUPPRESS
            return action.help if says_it else f"{action.help} (default: %(default)s)"

    def __init__(self, **options: Any):
        super().__init__(formatter_class=self._Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def number(kind: type, low: float, high: float = math.inf, open_low: bool = False) -> Callable[[str], Any]:
    """An argparse type: an int or a finite float within [low, high], or (low, high] with ``open_low``."""
    name = {int: "a whole number", float: "a number"}[kind]
    bounds = f"{'above' if open_low else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high) or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"must be {name} {bounds}, got {text}")
        return value

    return parse


def check_output(flag: str, path: Path, endings: Iterable[str]) -> None:
    """Raises InputError when a file to write has another ending, or cannot be written where it should be."""
    endings = list(endings)
    if path.suffix.lower() not in endings:
        raise InputError(f"{flag} {path}: the name must end in {' or '.join(endings)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{flag} {path}: its folder does not exist; create it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{flag} {path}: cannot be written there")
