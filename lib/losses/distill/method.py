"""What all distillation methods have in common."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Layout, Shape
from lib.losses.distill.context import NO_LEVELS, DistillationContext

AUTO = "auto"  # an option that follows the features
Value = bool | int | float | str | None  # of an option


@dataclass(frozen=True)
class Option:
    """A switch or number of a method: written +KEY=VALUE behind its name, handed to its constructor under KEY.

    What may be given follows from the default: on or off, a whole number of at least 1, a number above 0, or a word.
    A number whose default depends on the features has the default None, written "auto", and a ``kind``.
    """

    default: Value
    choices: tuple[str, ...] = ()  # the words, where only these are known; empty: any word
    kind: type | None = None  # int or float, where the default is None

    def read(self, text: str) -> Value:
        """The value that ``text`` means. Raises InputError saying what it must be."""
        if isinstance(self.default, bool):
            return _one_of({"on": True, "off": False}, text)
        if isinstance(self.default, str):
            return _one_of({word: word for word in self.choices or (text,)}, text)
        if self.default is None and text == AUTO:
            return None
        kind = self.kind or type(self.default)
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            number = "a whole number of at least 1" if kind is int else "a number above 0"
            raise InputError(f"must be {number}{f' or {AUTO}' if self.default is None else ''}, got {text!r}")
        return value

    @staticmethod
    def written(value: Value) -> str:
        """The value as the flag has it."""
        if value is None:
            return AUTO
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _one_of(meanings: Mapping[str, Any], text: str) -> Any:
    if text not in meanings or not text:
        raise InputError(f"must be {' or '.join(meanings) if text else 'a word'}, got {text!r}")
    return meanings[text]


@dataclass(frozen=True)
class Setting:
    """What a method is built for.

    student, teacher: every feature that the networks can return, by name; teacher None where there is none.
    batch: samples (clouds or images) of a step in this process.
    build_peer: makes the network of that name, to train along with the student.
    logits: the logits that both networks can return, by name, with their number of classes.
    levels: at how many levels the task predicts; 0 for a task with one prediction only.
    """

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape] | None
    batch: int
    build_peer: Callable[[str], nn.Module] | None = None
    logits: Mapping[str, int] = field(default_factory=dict)
    levels: int = 0


class DistillationMethod(nn.Module):
    """A term of the loss. It owns what it trains besides the student, which no saved student contains.

    A call with a ``DistillationContext`` returns named scalars. The one under ``name`` is the term, before its weight
    in the total loss; the others are its parts, for the log. A method is built from a ``Setting``, from the place of
    the features that it compares if it has a default ``place``, and from its ``options`` by name. (``output`` is built
    from gamma alone.) A method never asks which task it serves.
    """

    name: str
    weight = 1.0  # default weight in the total loss
    place: str | None = None  # default place of the features or logits; None: the method takes no place
    layouts: tuple[Layout, ...] = ()  # of the features that it can compare
    options: Mapping[str, Option] = {}
    unweighted: tuple[str, ...] = ()  # parts that enter the total loss with weight 1, beside the weighted term
    needs_teacher = True
    needs_peer = False  # True: it owns ``peer``, a network that trains along, and gets its outputs
    needs_levels = False  # True: it serves tasks that predict level by level
    held_out = 0  # samples outside of training that ``refresh`` wants to see before each epoch
    needs_ground_truth = False
    ground_truth_share = 0.0  # of the ground truth's weight at the coarser levels, what a term of weight 1 takes over

    def __init__(self, features: tuple[str, ...] = (), logits: tuple[str, ...] = ()):
        super().__init__()
        self.features = features  # names of the features that the networks must return
        self.logits = logits  # names of the logits that they must return

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        raise NotImplementedError

    def refresh(self, context: DistillationContext) -> None:
        """Takes in what the networks, in evaluation mode, predict on the ``held_out`` samples."""
        raise NotImplementedError

    @classmethod
    def served_at(cls, place: str, setting: Setting) -> tuple[str, ...]:
        """Names of the features at ``place``. Raises InputError when the method cannot compare them."""
        names = features_at(place, setting)
        for shapes in (setting.student, setting.teacher):
            for name in names:
                if shapes is not None and shapes[name].layout not in cls.layouts:
                    raise InputError(
                        f"{cls.name}@{place}: the feature {name} is {WORDS[shapes[name].layout]}; {cls.name} serves "
                        f"{' and '.join(WORDS[layout] for layout in cls.layouts)} only: choose another place"
                    )
        for name in names:
            if setting.teacher is not None and setting.student[name].layout != setting.teacher[name].layout:
                raise InputError(
                    f"{cls.name}@{place}: the feature {name} is {WORDS[setting.student[name].layout]} in the student "
                    f"and {WORDS[setting.teacher[name].layout]} in the teacher: they do not compare"
                )
        return names

    @classmethod
    def one_served_at(cls, place: str, setting: Setting) -> str:
        """Name of the one feature at ``place``. Raises InputError as ``served_at``, and when there are several."""
        names = cls.served_at(place, setting)
        if len(names) > 1:
            raise InputError(f"{cls.name} compares one feature: choose {cls.name}@{names[1]}, for example")
        return names[0]

    @classmethod
    def check_levels(cls, setting: Setting) -> None:
        """Raises InputError when the task does not predict level by level."""
        if setting.levels < 2:
            raise InputError(f"{cls.name} {NO_LEVELS}")


WORDS = {"points": "points", "rows": "rows", "map": "a map"}  # layouts, for messages


def features_at(place: str, setting: Setting) -> tuple[str, ...]:
    """Names of the student's features that ``place`` means, in their order.

    A place is a name ("pyramid1/1") or the beginning of one ("pyramid1": all features below it).
    Raises InputError when the student has none there, or the teacher lacks one of them.
    """
    names = tuple(name for name in setting.student if name == place or name.startswith(f"{place}/"))
    if not names:
        raise InputError(f"the student has no feature {place}: {_choice(setting.student)}")
    for name in names:
        if setting.teacher is not None and name not in setting.teacher:
            raise InputError(f"the teacher has no feature {name}: {_choice(setting.teacher)}")
    return names


def _choice(shapes: Mapping[str, Shape]) -> str:
    return f"choose a place of {', '.join(shapes)}" if shapes else "it has none at all"


def level_of(name: str) -> int | None:
    """The number at the end of a feature's name, 2 for "predictor/2"; None for a name without one."""
    number = name.rsplit("/", 1)[-1]
    return int(number) if number.isdecimal() else None


def adapter(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 layer, on channels last, between features of different widths; nothing where they are equal."""
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)


class FeaturewiseDistillation(DistillationMethod):
    """A method that compares feature with feature. Where widths differ the student's pass a learned 1x1 adapter."""

    layouts = ("points", "rows", "map")

    def __init__(self, setting: Setting, place: str | None = None):
        super().__init__(self.served_at(place or self.place, setting))
        self.adapters = nn.ModuleDict(
            {name: adapter(setting.student[name].width, setting.teacher[name].width) for name in self.features}
        )

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term, a scalar. student[l], teacher[l]: (B, N_l, C_l) or rows (P_l, C_l), of one width."""
        raise NotImplementedError

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        student = [self.adapters[name](s.by_position()) for name, (s, _) in zip(self.features, pairs, strict=True)]
        return {self.name: self.loss(student, [t.by_position() for _, t in pairs])}
