"""predict.py as the tests call it."""

import pytest

import predict
from lib.cli import run_script


def call(*arguments) -> None:
    assert predict.main([*map(str, arguments), "--device", "cpu"]) == 0


def message(capsys, *arguments) -> str:
    """The one line that a refused command says."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda: predict.main([*map(str, arguments), "--device", "cpu"]))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error.removeprefix("error: ").rstrip("\n")
