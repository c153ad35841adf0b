"""What all distillation methods have in common."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.scene_flow import ALPHAS


@dataclass(frozen=True)
class Option:
    """A switch or number of a method: written +KEY=VALUE behind its name, handed to its constructor under KEY.

    What may be given follows from the default: on or off, a whole number of at least 1, a number above 0, or a word.
    """

    default: bool | int | float | str
    choices: tuple[str, ...] = ()  # the words, where only these are known; empty: any word

    def read(self, text: str) -> bool | int | float | str:
        """The value that ``text`` means. Raises InputError saying what it must be."""
        if isinstance(self.default, bool):
            return _one_of({"on": True, "off": False}, text)
        if isinstance(self.default, str):
            return _one_of({word: word for word in self.choices or (text,)}, text)
        try:
            value = type(self.default)(text)
        except ValueError:
            value = math.nan
        whole = isinstance(self.default, int)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"must be {'a whole number of at least 1' if whole else 'a number above 0'}, got {text!r}")
        return value


def _one_of(meanings: Mapping[str, Any], text: str) -> Any:
    if text not in meanings or not text:
        raise InputError(f"must be {' or '.join(meanings) if text else 'a word'}, got {text!r}")
    return meanings[text]


@dataclass(frozen=True)
class Setting:
    """What a method is built for."""

    student: Mapping[str, int]  # width of every feature of the student, by name
    teacher: Mapping[str, int] | None  # the same of the teacher, None without one
    batch: int  # scenes a step in this process
    build_peer: Callable[[str], nn.Module] | None = None  # makes the network of that name, to train with the student


class DistillationMethod(nn.Module):
    """A term of the loss. It owns what it trains besides the student, which no saved student contains.

    A call with a ``DistillationContext`` returns named scalars; the one under ``name`` is the term, before its weight
    in the total loss, the others are its parts, for the log. Apart from ``output``, a method is built from a
    ``Setting`` and, where it has a default ``place``, from the place of the features that it compares: a family of
    them ("predictor": levels 0..3) or one ("predictor/1"). ``options`` are its further arguments, by name.
    """

    name: str
    weight = 1.0  # default weight in the total loss
    place: str | None = None  # default; None: compares no features of a chosen place
    options: Mapping[str, Option] = {}
    unweighted: tuple[str, ...] = ()  # parts that enter the total loss with weight 1, beside the weighted term
    needs_teacher = True
    needs_peer = False  # True: it owns ``peer``, the network that trains along, and gets its predictions
    held_out = 0  # pairs outside of training that ``refresh`` wants to see before each epoch
    needs_ground_truth = False
    ground_truth_share = 0.0  # part of the ground truth's weight, at levels 1..3, that a term of weight 1 takes over

    def __init__(self, features: tuple[str, ...] = ()):
        super().__init__()
        self.features = features  # names that the networks must return

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        raise NotImplementedError

    def refresh(self, context: DistillationContext) -> None:
        """Takes in what the networks, in evaluation mode, predict on the ``held_out`` pairs."""
        raise NotImplementedError


def features_at(place: str, setting: Setting) -> tuple[str, ...]:
    """Names of the features that ``place`` means. Raises InputError when student or teacher lacks one."""
    names = (place,) if "/" in place else tuple(f"{place}/{level}" for level in range(len(ALPHAS)))
    for whose, widths in (("student", setting.student), ("teacher", setting.teacher)):
        for name in names:
            if widths is not None and name not in widths:
                raise InputError(f"the {whose} has no feature {name}: choose a place of {', '.join(widths)}")
    return names


def level_of(name: str) -> int:
    """The level of a feature: 2 for "predictor/2"."""
    return int(name.rsplit("/", 1)[1])


def adapter(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 layer between features of different widths; nothing where they are equal."""
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)


def adapters(names: tuple[str, ...], setting: Setting) -> nn.ModuleDict:
    """One ``adapter`` from the student's to the teacher's width for each feature."""
    return nn.ModuleDict({name: adapter(setting.student[name], setting.teacher[name]) for name in names})


class LevelwiseDistillation(DistillationMethod):
    """A method that compares features level by level; where widths differ the student's pass a learned 1x1 adapter."""

    def __init__(self, setting: Setting, place: str | None = None):
        super().__init__(features_at(place or self.place, setting))
        self.adapters = adapters(self.features, setting)

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term, a scalar. student[l], teacher[l]: (B, N_l, C_l), of one width."""
        raise NotImplementedError

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        student = [self.adapters[name](s) for name, (s, _) in zip(self.features, pairs, strict=True)]
        return {self.name: self.loss(student, [t for _, t in pairs])}
