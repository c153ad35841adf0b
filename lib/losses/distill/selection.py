"""Which methods a student learns by: read from a flag, built for two networks, added up to one loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lib.errors import InputError
from lib.losses.distill.attention import AttentionTransfer
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.hint import HintDistillation
from lib.losses.distill.logits import LogitsDistillation
from lib.losses.distill.method import DistillationMethod, Option, Setting, Value
from lib.losses.distill.multiscale import MultiscaleDistillation
from lib.losses.distill.online import OnlineDistillation
from lib.losses.distill.output import OutputDistillation, joined
from lib.losses.distill.pkd import PearsonDistillation
from lib.losses.distill.pointdistiller import PointDistiller
from lib.losses.distill.rkd import RelationalDistillation
from lib.losses.distill.self_distillation import SelfDistillation
from lib.losses.distill.semckd import SemanticCalibration
from lib.losses.distill.similarity import SimilarityDistillation

METHODS = {
    "output": OutputDistillation,
    "logits": LogitsDistillation,
    "hint": HintDistillation,
    "multiscale": MultiscaleDistillation,
    "pkd": PearsonDistillation,
    "attention": AttentionTransfer,
    "similarity": SimilarityDistillation,
    "semckd": SemanticCalibration,
    "rkd": RelationalDistillation,
    "pointdistiller": PointDistiller,
    "self": SelfDistillation,
    "online": OnlineDistillation,
}


# A task's own defaults: method -> (place, weight). The weight of ``output`` is gamma.
Defaults = Mapping[str, tuple[str | None, float]]


def _default_place(name: str, defaults: Defaults | None) -> str | None:
    return defaults[name][0] if defaults and name in defaults else METHODS[name].place


def _default_weight(name: str, defaults: Defaults | None) -> float:
    return defaults[name][1] if defaults and name in defaults else METHODS[name].weight


@dataclass(frozen=True)
class Term:
    """One entry of --distill: METHOD[@PLACE][+KEY=VALUE...][:WEIGHT]."""

    name: str
    weight: float | None  # None, until the flag is read: the default
    place: str | None = None  # None: the default
    options: tuple[tuple[str, Value], ...] = ()  # those that are given

    def __str__(self) -> str:
        place = f"@{self.place}" if self.place else ""
        options = "".join(f"+{key}={Option.written(value)}" for key, value in self.options)
        return f"{self.name}{place}{options}:{self.weight:g}"


def default_options() -> list[str]:
    """The methods that have options, each as it is written in full."""
    return [
        str(Term(name, method.weight, None, tuple((key, option.default) for key, option in method.options.items())))
        for name, method in METHODS.items()
        if method.options
    ]


@dataclass(frozen=True)
class Selection:
    """The methods of a run. ``terms`` come on top of output distillation; those of weight 0 are left out.

    Raises InputError for gamma outside [0, 1].
    """

    gamma: float = 0.0
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        OutputDistillation(self.gamma)

    @property
    def teacher_users(self) -> list[str]:
        """What needs a teacher, in words for the user."""
        output = [f"gamma {self.gamma:g}"] if self.gamma > 0 else []
        return output + [term.name for term in self.terms if METHODS[term.name].needs_teacher]

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says about the loss it was trained by."""
        return {"gamma": self.gamma, "distill": [str(term) for term in self.terms]}

    def build(self, setting: Setting, defaults: Defaults | None = None) -> "Distillation":
        """The loss, with new adapters. defaults: the task's own places, for terms that name none.

        Raises InputError when a method does not fit the networks or the other methods.
        """
        output = OutputDistillation(self.gamma)
        methods = []
        for term in self.terms:
            place = term.place or _default_place(term.name, defaults)
            arguments = () if place is None else (place,)
            methods.append(METHODS[term.name](setting, *arguments, **dict(term.options)))
        return Distillation(output, methods, [term.weight for term in self.terms])


class Distillation(DistillationMethod):
    """Output distillation's loss plus weighted terms of other methods; every term is returned under its name."""

    name = "distillation"

    def __init__(self, output: OutputDistillation, methods: Sequence[DistillationMethod], weights: Sequence[float]):
        names, logits = (
            tuple(dict.fromkeys(name for method in methods for name in wanted(method)))  # each once, in order
            for wanted in (lambda method: method.features, lambda method: method.logits)
        )
        super().__init__(names, logits)
        self.output, self.weights = output, tuple(weights)
        self.methods = nn.ModuleList(methods)
        shares = [weight * method.ground_truth_share for weight, method in zip(weights, methods, strict=True)]
        if sum(shares) > 1.0 - output.gamma:
            taking = ", ".join(method.name for method, share in zip(methods, shares, strict=True) if share > 0)
            raise InputError(
                f"{taking} takes over {sum(shares):g} of the ground truth's weight, which is {1 - output.gamma:g} at "
                f"gamma {output.gamma:g}: lower gamma or the weight of {taking}"
            )

    @property
    def needs_teacher(self) -> bool:
        return any(method.needs_teacher for method in (self.output, *self.methods))

    @property
    def needs_ground_truth(self) -> bool:
        return any(method.needs_ground_truth for method in (self.output, *self.methods))

    @property
    def needs_peer(self) -> bool:
        return any(method.needs_peer for method in self.methods)

    @property
    def needs_levels(self) -> bool:
        return any(method.needs_levels for method in self.methods)

    @property
    def peer(self) -> nn.Module:
        """The network that trains along; there is one when ``needs_peer``."""
        return next(method.peer for method in self.methods if method.needs_peer)

    @property
    def held_out(self) -> int:
        return max((method.held_out for method in self.methods), default=0)

    def refresh(self, context: DistillationContext) -> None:
        for method in self.methods:
            if method.held_out:
                method.refresh(context)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Named scalars: "loss", the one to minimise; its parts, each without its weight."""
        losses = dict(self.output(context))
        for weight, method in zip(self.weights, self.methods, strict=True):
            terms = method(context)
            losses["loss"] = losses["loss"] + weight * terms[method.name]
            for part in method.unweighted:
                losses["loss"] = losses["loss"] + terms[part]
            losses = joined(losses, terms)
        return losses


def parse_distill(text: str | None, gamma: float | None = None, defaults: Defaults | None = None) -> Selection:
    """The methods that --distill and --gamma ask for together.

    text: entries METHOD[@PLACE][+KEY=VALUE...][:WEIGHT] with commas between, each method at most once. None means
    "output". What is left out takes the task's ``defaults``, or else the method's own. The weight of ``output`` is
    gamma, which may be given either way; without an entry ``output`` gamma is 0.
    Raises InputError for whatever cannot be understood or contradicts itself.
    """
    entries = [_parse_entry(entry.strip(), defaults) for entry in ("output" if text is None else text).split(",")]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--distill {text}: {name} is named twice, name each method once")
    given = next((entry.weight for entry in entries if entry.name == "output"), None)
    if "output" not in names:
        if gamma:
            raise InputError(
                f"--gamma {gamma:g} is the weight of output, which --distill {text} leaves out: add output to the list"
            )
        gamma = 0.0
    elif None not in (gamma, given) and gamma != given:
        raise InputError(f"--gamma {gamma:g} and --distill {text} disagree: give the weight of output once")
    else:
        gamma = next(value for value in (given, gamma, _default_weight("output", defaults)) if value is not None)
    terms = [
        replace(entry, weight=_default_weight(entry.name, defaults)) if entry.weight is None else entry
        for entry in entries
        if entry.name != "output" and entry.weight != 0
    ]
    return Selection(gamma, tuple(terms))


def _parse_entry(entry: str, defaults: Defaults | None) -> Term:
    """One entry of --distill, without weight where none is written."""
    head, colon, weight_text = entry.partition(":")
    head, *options = head.split("+")
    name, at, place = head.partition("@")
    if name not in METHODS:
        raise InputError(f"--distill has no method {name!r}: choose of {', '.join(METHODS)}")
    if at and (not place or METHODS[name].place is None):
        default = _default_place(name, defaults)
        fix = f"give one such as {name}@{default}" if default else f"{name} takes no place"
        raise InputError(f"--distill {entry}: {fix}")
    parsed = tuple(_parse_option(entry, name, option) for option in options)
    for key in (keys := [key for key, _ in parsed]):
        if keys.count(key) > 1:
            raise InputError(f"--distill {entry}: {key} is given twice")
    if not colon:
        return Term(name, None, place or None, parsed)
    try:
        weight = float(weight_text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"--distill {entry}: the weight of {name} must be a number of at least 0, got {weight_text!r}")
    return Term(name, weight, place or None, parsed)


def _parse_option(entry: str, name: str, text: str) -> tuple[str, Value]:
    """(key, value) of KEY=VALUE."""
    known = METHODS[name].options
    key, equals, value = text.partition("=")
    if key not in known:
        choice = f"choose of {', '.join(known)}" if known else "it has none"
        raise InputError(f"--distill {entry}: {name} has no option {key!r}: {choice}")
    try:
        return key, known[key].read(value)
    except InputError as error:
        raise InputError(f"--distill {entry}: {key} {error}") from None
