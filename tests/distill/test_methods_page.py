"""docs/methods.md says what the code holds."""

import re
from pathlib import Path

import torch

from lib.losses.distill import METHODS, parse_distill
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Option, Setting
from tests.distill.steps import SETTING, context

PAGE = (Path(__file__).resolve().parents[2] / "docs/methods.md").read_text()


def table(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in PAGE.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_method_stands_with_its_layouts_default_place_and_weight():
    rows = {row[0]: (row[3], row[4] or None, float(row[5].removeprefix("gamma "))) for row in table("The methods")}
    assert rows == {name: (", ".join(m.layouts), m.place, m.weight) for name, m in METHODS.items()}
    assert list(rows) == list(METHODS) == [method.name for method in METHODS.values()]


def test_every_option_stands_with_its_default():
    found, name = {}, ""
    for method, option, default, _ in table("--distill"):
        name = method or name
        if option:
            found[name, option] = default
    assert found == {
        (name, key): Option.written(option.default)
        for name, method in METHODS.items()
        for key, option in method.options.items()
    }


def test_the_examples_of_the_flag_are_understood():
    texts = re.findall(r"--distill ([a-z][^ \n]*:?[^ \n]*)", PAGE)
    assert len(texts) == 6
    for text in texts:
        assert parse_distill(text).build(SETTING).double()(context())["loss"].isfinite()


def test_the_new_method_of_the_page_runs():
    code = PAGE.split("## How to add a method")[1].split("class MyMethod")[1].split("\n   `Feat")[0]
    names = {"DistillationMethod": DistillationMethod, "Setting": Setting, "Tensor": torch.Tensor}
    names |= {"DistillationContext": DistillationContext}
    names["my_loss"] = lambda student, teacher: (student[0].mean() - teacher[0].mean()).square()
    exec("class MyMethod" + code.replace("\n       ", "\n"), names)
    loss = names["MyMethod"](SETTING)(context())["mine"]
    assert loss > 0 and loss.requires_grad
