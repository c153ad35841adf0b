"""A toy task: what the contract of lib/tasks/task.py asks of a task, and no more. Rows of numbers, their sums.

The networks are narrow and wide perceptrons. The metric is better when it is higher, to show that this works.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.features import Feature, Outputs, Shape, Sites, Want
from lib.flags import number
from lib.tasks.task import Metric, Task


class Perceptron(nn.Module):
    def __init__(self, name: str = "toy-wide", width: int = 16):
        super().__init__()
        self.name, self.options = name, {"width": width}
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(rows).relu()
        return hidden, self.last(hidden)


MODELS = {"toy-wide": (Perceptron, {}), "toy-narrow": (Perceptron, {"width": 4})}


class Batch(NamedTuple):
    inputs: dict[str, Tensor]  # "rows" (B, 4): nested, as detectors' batches are
    label: Tensor  # (B,) 0 or 1: is the sum above 0
    names: list[str]


class Rows(torch.utils.data.Dataset):
    def __init__(self, part: str, count: int):
        generator = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[part])
        self.rows = torch.randn(count, 4, generator=generator)
        self.names = [f"{part}/{i}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, str]:
        i = key[1] if isinstance(key, tuple) else key
        return self.rows[i], self.names[i]


def collate(samples: list[tuple[Tensor, str]]) -> Batch:
    rows = torch.stack([row for row, _ in samples])  # (B, 4)
    return Batch({"rows": rows}, (rows.sum(1) > 0).long(), [name for _, name in samples])


def forward(net: nn.Module, batch: Batch, want: Want = Want(), beside: Outputs | None = None) -> Outputs:  # noqa: B008
    sites = Sites() if beside is None else beside.shared
    hidden, logits = net(batch.inputs["rows"])
    return Outputs(
        logits, {name: Feature(hidden, "rows", sites) for name in want.features}, {"class": logits}, None, sites
    )


TOY = Task(
    name="toy",
    teachers={"wide": "toy-wide"},
    students={"narrow": "toy-narrow"},
    datasets=("rows",),
    on_disk=frozenset(),
    default_datasets={"teacher": "rows", "student": "rows"},
    known_teachers={"toy": "rows"},
    recipes={role: {"batch_size": 4, "epochs": 3, "lr": 0.05} for role in ("teacher", "student")},
    metrics={"accuracy": Metric(lower_is_better=False), "loss": Metric("nat")},
    best_metric="accuracy",
    headline=("accuracy",),
    sample="row",
    baselines={"zero": lambda rows: (rows, torch.zeros(len(rows), 2))},
    protocol=("num_rows",),
    repeated=("num_rows",),
    add_flags=lambda group: group.add_argument("--num-rows", type=number(int, 1), default=24, help="rows of a part"),
    complete=lambda args: None,
    open=lambda dataset, part, args: Rows(part, args.num_rows),
    collate=collate,
    check=lambda net, args: None,
    shapes=lambda net: {"hidden": Shape(net.options["width"], "rows")},
    logits=lambda net: {"class": 2},
    forward=forward,
    loss=lambda outputs, batch: {"class": nn.functional.cross_entropy(outputs.prediction, batch.label)},
    distance=lambda student, teacher, batch, args: {"class": (student.prediction - teacher.prediction).square().mean()},
    predict=lambda net, batch: net(batch.inputs["rows"])[1],
    score=lambda logits, batch: {
        "accuracy": float(logits.argmax(1) == batch.label),
        "loss": nn.functional.cross_entropy(logits, batch.label).item(),
    },
    summarise=lambda records: {
        name: sum(record[name] for record in records) / len(records) for name in ("accuracy", "loss")
    },
    methods={"hint": ("hidden", 2.0), "pkd": ("hidden", 1.0), "logits": ("class", 1.0)},
)
