"""The methods on what detectors give: rows of unequal samples, maps of two sizes, losses of several parts."""

import pytest
import torch
from torch import Tensor

from lib.features import Feature, Outputs, Shape, Sites
from lib.losses.distill import METHODS, DistillationContext, Setting, parse_distill
from tests.distill.steps import build, normal

TEACHER = {"pillars": Shape(8, "rows"), "bev/0": Shape(8, "map"), "bev/1": Shape(12, "map")}
STUDENT = {"pillars": Shape(4, "rows"), "bev/0": Shape(4, "map"), "bev/1": Shape(6, "map")}
SETTING = Setting(STUDENT, TEACHER, 3, logits={"class": 3})
SIZES = {"pillars": (21,), "bev/0": (6, 8), "bev/1": (3, 4)}
SAMPLE = torch.tensor([0] * 10 + [1] * 4 + [2] * 7)


def network(shapes: dict[str, Shape], sites: dict[str, Sites], counts: Tensor, seed: int) -> Outputs:
    values = {}
    for i, (name, shape) in enumerate(shapes.items()):
        size = SIZES[name]
        axes = (*size, shape.width) if shape.layout == "rows" else (3, shape.width, *size)
        values[name] = normal(*axes, seed=seed + i).requires_grad_()
    known = {"pillars": counts}
    features = {n: Feature(v, shapes[n].layout, sites[n], known.get(n)) for n, v in values.items()}
    return Outputs(None, features, {"class": normal(40, 3, seed=seed + 9).requires_grad_()})


TASK = {"class": 2.0, "box": 3.0, "direction": 0.5}  # parts of the task's own loss
DISTANCE = {"class_distance": 7.0, "box_distance": 11.0}


def step() -> DistillationContext:
    sites = {name: Sites(sample=SAMPLE if name == "pillars" else None) for name in TEACHER}
    counts = torch.randint(1, 33, (21,), generator=torch.Generator().manual_seed(0))
    student, teacher = network(STUDENT, sites, counts, 0), network(TEACHER, sites, counts, 50)
    task, distance = ({name: torch.tensor(value) for name, value in part.items()} for part in (TASK, DISTANCE))
    return DistillationContext(student=student, teacher=teacher, task_loss=lambda _: task, distance=lambda *_: distance)


PLACES = [
    (name, place)
    for name, method in METHODS.items()
    for place, layout in (("pillars", "rows"), ("bev", "map"))
    if layout in method.layouts and name != "self"
]


@pytest.mark.parametrize("name, place", PLACES)
def test_every_method_at_every_place_of_a_detector(name, place):
    """It reaches all features of the student there, and the loss of several is the sum of those of each.

    Not of ``semckd``, which compares each with all.
    """
    places = (place,) if place == "pillars" else ("bev/0", "bev/1")
    at = step()
    if name == "hint":
        place = places[0]
    method = build(name, SETTING, place)
    torch.manual_seed(5)
    loss = method(at)[name]
    loss.backward()
    for feature in method.features:
        assert at.student.features[feature].values.grad.any() and at.teacher.features[feature].values.grad is None
    if name in ("hint", "semckd"):
        return
    assert method.features == places
    alone, parameters = [build(name, SETTING, feature) for feature in places], method.parameters()
    with torch.no_grad():
        for part in alone:
            for parameter in part.parameters():
                parameter.copy_(next(parameters))
    torch.manual_seed(5)
    torch.testing.assert_close(torch.stack([part(at)[name] for part in alone]).sum(), loss)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_losses_of_several_parts_are_mixed_by_gamma_and_all_logged(gamma):
    text = f"output:{gamma},hint@bev/0:5,attention@bev:2,similarity@bev,semckd@bev,rkd@bev,pointdistiller@pillars:0.5,"
    loss = parse_distill(text + "logits@class+sigmoid=on:3").build(SETTING).double()
    losses = loss(step())
    weights = dict(zip((method.name for method in loss.methods), loss.weights, strict=True))
    assert weights["attention"] == 2 and weights["logits"] == 3 and len(weights) == 7
    terms = sum(weight * losses[name].item() for name, weight in weights.items())
    expected = gamma * (7 + 11) + (1 - gamma) * (2 + 3 + 0.5) + terms
    assert losses["loss"].item() == pytest.approx(expected)
    parts = {**(TASK if gamma < 1 else {}), **(DISTANCE if gamma > 0 else {})}
    assert {name: losses[name].item() for name in parts} == parts
    names = {"loss", *parts, *weights, "rkd_distance", "rkd_angle"}
    assert set(losses) == names | ({"loss_gt"} if gamma < 1 else set()) | ({"loss_kd"} if gamma > 0 else set())


def test_parts_of_one_name_are_refused():
    """A part of the task's loss and one of the distance, or a part and a method's term."""
    at = step()
    at.distance = lambda *_: {"class": torch.tensor(1.0), "box_distance": torch.tensor(2.0)}
    with pytest.raises(ValueError, match="two parts of a loss have the name class: rename one"):
        parse_distill("output:0.3").build(SETTING)(at)
    at = step()
    at.task_loss = lambda _: {"hint": torch.tensor(1.0), "box": torch.tensor(2.0)}
    with pytest.raises(ValueError, match="two parts of a loss have the name hint: rename one"):
        parse_distill("output:0.3,hint@bev/0").build(SETTING).double()(at)
