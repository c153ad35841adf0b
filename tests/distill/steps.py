"""Random training steps for the tests of the methods: features, flows and ground truth of two networks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lib.features import Feature, Levels, Outputs, Shape, Sites
from lib.losses import ALPHAS, multiscale_loss, output_distillation
from lib.losses.distill import METHODS, DistillationContext, DistillationMethod, Setting

SIZES = (24, 12, 6, 4)
BATCH = 4
TEACHER = {"pyramid1": (6, 8, 10, 12), "embedding": (6, 8, 10, 12), "predictor": (7, 7, 7, 7)}
STUDENT = {"pyramid1": (3, 4, 5, 6), "embedding": (3, 4, 5, 6), "predictor": (7, 7, 7, 7)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers of float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shapes(widths: dict[str, Sequence[int]]) -> dict[str, Shape]:
    """Families of point features, level by level -> shapes by name."""
    return {f"{family}/{level}": Shape(w, "points") for family, ws in widths.items() for level, w in enumerate(ws)}


SETTING = Setting(shapes(STUDENT), shapes(TEACHER), BATCH, levels=4)
EQUAL_WIDTHS = Setting(shapes(TEACHER), shapes(TEACHER), BATCH, levels=4)


def nested_sites(sizes: Sequence[int] = SIZES, batch: int = BATCH) -> list[Sites]:
    """Random points with coordinates; each level keeps some points of the one above, in another order."""
    sites = [Sites(normal(batch, sizes[0], 3, seed=400))]
    for above, size in pairwise(sizes):
        kept = torch.stack([torch.randperm(above)[:size] for _ in range(batch)])
        places = torch.stack([p[k] for p, k in zip(sites[-1].places, kept, strict=True)])
        sites.append(Sites(places, sites[-1], kept))
    return sites


def outputs(flows: Sequence[Tensor], sites: Sequence[Sites], features: dict[str, Tensor] | None = None) -> Outputs:
    """A network's flows and point features; a feature "family/level" stands on that level's sites."""
    named = {name: Feature(value, "points", sites[int(name[-1])]) for name, value in (features or {}).items()}
    return Outputs(None, named, levels=Levels(flows, sites, ALPHAS))


def step(
    student: Outputs, teacher: Outputs | None = None, targets: Sequence[Tensor] | None = None, **more: object
) -> DistillationContext:
    """The context with the losses of scene flow. targets[l] (B, N_l, 3): the ground truth."""
    return DistillationContext(
        student=student,
        teacher=teacher,
        truth=None if targets is None else Levels(targets, student.levels.sites, ALPHAS),
        task_loss=lambda output: {"flow": multiscale_loss(output.levels.values, targets)},
        distance=lambda first, second: {"flow": output_distillation(first.levels.values, second.levels.values)},
        **more,
    )


def random_outputs(setting_shapes: dict[str, Shape], sites: Sequence[Sites], seed: int) -> Outputs:
    """Random flows and features, with gradient."""
    sizes = [level.places.shape[1] for level in sites]
    batch = len(sites[0].places)
    flows = [normal(batch, n, 3, seed=seed + level).requires_grad_() for level, n in enumerate(sizes)]
    features = {
        name: normal(batch, sizes[int(name[-1])], shape.width, seed=seed + 10 + i).requires_grad_()
        for i, (name, shape) in enumerate(setting_shapes.items())
    }
    return outputs(flows, sites, features)


def copied(output: Outputs) -> Outputs:
    """The same numbers on the same sites, with a gradient of their own."""
    values = {name: feature.values.detach().clone().requires_grad_() for name, feature in output.features.items()}
    return outputs([f.detach().clone().requires_grad_() for f in output.levels.values], output.levels.sites, values)


def context(setting: Setting = SETTING, same: bool = False) -> DistillationContext:
    """Random tensors of both networks at shared points; ``same``: the student's are copies of the teacher's."""
    sites = nested_sites()
    teacher = random_outputs(setting.teacher, sites, 100)
    student = copied(teacher) if same else random_outputs(setting.student, sites, 200)
    targets = [normal(BATCH, n, 3, seed=300 + level) for level, n in enumerate(SIZES)]
    return step(student, teacher, targets)


def build(name: str, setting: Setting = SETTING, *place: str, **options: object) -> DistillationMethod:
    """A method in float64, with the same random adapters each time."""
    torch.manual_seed(0)
    return METHODS[name](setting, *place, **options).double()


def leaves(output: Outputs) -> list[Tensor]:
    """All tensors of a network's outputs."""
    features = [feature.values for feature in output.features.values()]
    return [*features, *output.logits.values(), *(output.levels.values if output.levels else ())]


def never(*_: object) -> None:
    """A loss that must not be asked for."""
    raise AssertionError("this loss was not needed")
