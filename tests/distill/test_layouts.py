"""Every method on every layout that it serves, against numbers worked out by hand; the other layouts are refused.

The same numbers stand as points of two clouds, as cells of two maps, or as rows of one batch.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Feature, Outputs, Shape, Sites
from lib.losses.distill import METHODS, DistillationContext, Setting
from lib.losses.distill.attention import attention_loss
from lib.losses.distill.pointdistiller import point_importance
from lib.losses.distill.rkd import grid_places, random_neighbours, spatial_neighbours
from lib.losses.distill.semckd import layer_attention
from lib.losses.distill.similarity import sample_similarity
from tests.distill.steps import build, never, normal

LAYOUTS = ("points", "rows", "map")
SERVED = [(name, layout) for name, method in METHODS.items() for layout in method.layouts if name != "self"]


def values_as(layout: str, values: Tensor, height: int = 1) -> Tensor:
    """(B, N, C) in another layout: (B, N, C), (B N, C) or (B, C, height, N / height)."""
    if layout == "map":
        return values.transpose(1, 2).unflatten(2, (height, -1))  # (B, N, C) -> (B, C, N) -> (B, C, height, N / height)
    return values.flatten(0, 1) if layout == "rows" else values


def coordinates(batch: int, count: int) -> Tensor:
    """Points on a line: (B, N, 3)."""
    return F.pad(torch.arange(float(count), dtype=torch.float64).view(1, -1, 1), (0, 2)).expand(batch, -1, -1)


def step(
    layout: str, student: dict[str, Tensor], teacher: dict[str, Tensor], height: int = 1, places: Tensor | None = None
) -> DistillationContext:
    """Features (B, N, C) by name, in one layout, of both networks on shared sites. places: the points' coordinates."""
    sites = {}
    for name, values in student.items():
        line = coordinates(*values.shape[:2]) if places is None else places
        rows = torch.arange(values.shape[0]).repeat_interleave(values.shape[1])  # (B N,)
        sites[name] = Sites(line) if layout == "points" else Sites(sample=rows if layout == "rows" else None)

    def of(features: dict[str, Tensor]) -> Outputs:
        values = {name: values_as(layout, value, height) for name, value in features.items()}
        return Outputs(None, {name: Feature(value, layout, sites[name]) for name, value in values.items()})

    return DistillationContext(student=of(student), teacher=of(teacher), task_loss=never, distance=never)


def setting(layout: str, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Setting:
    def shapes(features: dict[str, Tensor]) -> dict[str, Shape]:
        return {name: Shape(value.shape[2], layout) for name, value in features.items()}

    return Setting(shapes(student), shapes(teacher), len(next(iter(student.values()))), levels=0)


def loss_of(name: str, layout: str, student: Tensor, teacher: Tensor, method: nn.Module | None = None) -> Tensor:
    """The term of the method for one feature "x" (B, N, C)."""
    student, teacher = {"x": student}, {"x": teacher}
    method = method or build(name, setting(layout, student, teacher), "x")
    torch.manual_seed(5)
    return method(step(layout, student, teacher))[name]


def numbers(*clouds: list[list[float]]) -> Tensor:
    return torch.tensor(clouds, dtype=torch.float64)


# Two samples of two positions with two channels.
STUDENT = numbers([[1, 2], [0, 1]], [[3, 0], [1, 1]])
TEACHER = numbers([[1, 0], [2, 1]], [[3, 1], [0, 1]])  # differences: 0 2, -2 0, 0 -1, 1 0; squares 4 + 4 + 1 + 1


# --- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hint(layout):
    """With the identity as regressor: squared differences 10, squares of the teacher 1 + 4 + 1 + 9 + 1 + 1."""
    method = build("hint", setting(layout, {"x": STUDENT}, {"x": TEACHER}), "x")
    with torch.no_grad():
        method.regressor.weight.copy_(torch.eye(2))
        method.regressor.bias.zero_()
    assert loss_of("hint", layout, STUDENT, TEACHER, method).item() == pytest.approx(10 / 17)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_multiscale(layout):
    assert loss_of("multiscale", layout, STUDENT, TEACHER).item() == pytest.approx(10 / 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pkd(layout):
    """One channel: (0, 0, 2, 2) and (0, 2, 0, 2) do not correlate; (0, 0, 2, 2) and (1, 1, 5, 5) do, r = 1."""
    student = numbers([[0, 0], [0, 0]], [[2, 2], [2, 2]])
    teacher = numbers([[0, 1], [2, 1]], [[0, 5], [2, 5]])
    expected = (1 - (0 + 1) / 2) * (4 - 1) / 4
    assert loss_of("pkd", layout, student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_are_linear_in_the_channels(layout):
    """2 * first + second + 1 in place of the learned layer gives 5, 2, 7, 4, against 5, 0, 7, 1."""
    method = build("multiscale", setting(layout, {"x": STUDENT}, {"x": TEACHER[..., :1]}), "x")
    with torch.no_grad():
        method.adapters["x"].weight.copy_(torch.tensor([[2.0, 1.0]]))
        method.adapters["x"].bias.fill_(1.0)
    teacher = numbers([[5], [0]], [[7], [1]])
    assert loss_of("multiscale", layout, STUDENT, teacher, method).item() == pytest.approx((4 + 9) / 4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention(layout):
    """Energies: student (5, 1), (9, 2); teacher (1, 5), (10, 1)."""
    student = [5 / 26**0.5, 1 / 26**0.5, 9 / 85**0.5, 2 / 85**0.5]
    teacher = [1 / 26**0.5, 5 / 26**0.5, 10 / 101**0.5, 1 / 101**0.5]
    expected = sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / 4
    assert loss_of("attention", layout, STUDENT, TEACHER).item() == pytest.approx(expected)


@pytest.mark.parametrize("layout", ["points", "map"])
def test_similarity(layout):
    """<(1 2 0 1), (3 0 1 1)> = 4, squares 6 and 11; <(1 0 2 1), (3 1 0 1)> = 4, squares 6 and 11: no difference."""
    assert loss_of("similarity", layout, STUDENT, TEACHER).item() == pytest.approx(0.0, abs=1e-25)
    teacher = numbers([[1, 0], [0, 0]], [[0, 0], [0, 1]])  # similar to itself alone: the identity
    rows = [(6 / 52**0.5, 4 / 52**0.5), (4 / 137**0.5, 11 / 137**0.5)]
    expected = (
        sum(
            (a - b) ** 2 for row, one in zip(rows, ((1, 0), (0, 1)), strict=True) for a, b in zip(row, one, strict=True)
        )
        / 4
    )
    assert loss_of("similarity", layout, STUDENT, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rkd(layout):
    """One sample of three positions; all are anchors and each is a neighbour of the two others.

    Distances: student 1, 3, 2, mean 2; teacher 10, 0, 10, mean of the positive ones 10.
    Angles, as cosines between the directions to the two others: student 1, -1, 1 with 1 on the diagonals; teacher 0
    with one of the diagonal 0, 1, 0 with the other of the diagonal 0. At each of the three: Huber 1.5, 3 and 1.5.
    """
    student, teacher = numbers([[0], [1], [3]]), numbers([[0], [10], [0]])
    distance = 2 * (0.5 * 0.5**2 + (1.5 - 0.5) + 0.0) / 9
    angle = (3 * 0.5 + 2 * 1.5 + 3 * 0.5) / 12
    assert loss_of("rkd", layout, student, teacher).item() == pytest.approx(distance + 2 * angle)


def test_rkd_counts_fine_levels_less():
    student, teacher = normal(2, 9, 3), normal(2, 9, 4, seed=1)
    losses = []
    for name in ("x", "x/0", "x/1", "x/2", "x/7"):
        method = build("rkd", setting("map", {name: student}, {name: teacher}), name)
        torch.manual_seed(5)
        losses.append(method(step("map", {name: student}, {name: teacher}, height=3))["rkd"].item())
    assert [loss / losses[0] for loss in losses] == pytest.approx([1, 0.25, 0.5, 1, 1])


@pytest.mark.parametrize(
    "layout, mode, expected",
    [
        # the position of largest maximum of each sample: (2, 1) against (0, 1); (3, 1) against (3, 0)
        *((layout, "paper", 2 * (4 + 0 + 0 + 1) / 4) for layout in LAYOUTS),
        ("rows", "reference", 2 * (0 + 1) / 2),  # of the whole batch: (3, 1) against (3, 0)
    ],
)
def test_pointdistiller(layout, mode, expected):
    """With features in place of graphs. The graphs: test_pointdistiller.py."""
    at = setting(layout, {"x": STUDENT}, {"x": TEACHER})
    method = build("pointdistiller", at, "x", kept=1, local=False, mode=mode)
    assert loss_of("pointdistiller", layout, STUDENT, TEACHER, method).item() == pytest.approx(expected)


@pytest.mark.parametrize("layout, mode", [*((layout, "paper") for layout in LAYOUTS), ("rows", "reference")])
def test_pointdistiller_follows_the_importance_that_the_network_knows(layout, mode):
    """Counts (1, 5) and (2, 7): both positions of each sample are kept, or of the batch's rows those with 5 and 7."""
    counts = torch.tensor([[1, 5], [2, 7]])
    networks = setting(layout, {"x": STUDENT}, {"x": TEACHER})
    method = build("pointdistiller", networks, "x", kept=2, temperature=2.0, local=False, mode=mode)
    at = step(layout, {"x": STUDENT}, {"x": TEACHER})
    by_layout = {"points": counts, "rows": counts.flatten(), "map": counts.unsqueeze(1)}[layout]
    old = at.teacher.features["x"]
    at.teacher.features["x"] = Feature(old.values, layout, old.sites, by_layout)
    squares = torch.tensor([[4.0, 4.0], [1.0, 1.0]], dtype=torch.float64)  # of each position
    if mode == "reference":
        phi = torch.softmax(torch.tensor([5.0, 7.0], dtype=torch.float64) / 2, 0)
        expected = 2 * (2 * phi * torch.stack([squares[0, 1], squares[1, 1]])).sum() / 4
    else:
        phi = torch.softmax(counts.double() / 2, 1)
        expected = 2 * (2 * phi * squares).sum() / 8
    torch.testing.assert_close(method(at)["pointdistiller"], expected)
    assert torch.equal(point_importance(at.teacher.features["x"]).flatten(), counts.flatten().double())


def test_semckd_on_maps_of_two_sizes():
    """A map of 2 x 2 cells and one of a single cell, written out: the finer is the mean of its cells."""
    student = {"bev/0": normal(3, 4, 2), "bev/1": normal(3, 1, 5, seed=1)}
    teacher = {"bev/0": normal(3, 4, 3, seed=2), "bev/1": normal(3, 1, 6, seed=3)}
    method = build("semckd", setting("map", student, teacher), "bev")
    at = step("map", student, teacher)
    for features, values in ((at.student.features, student), (at.teacher.features, teacher)):
        sites = features["bev/0"].sites
        features["bev/0"] = Feature(values_as("map", values["bev/0"], 2), "map", sites)
    names, total = list(student), 0.0
    queries, keys = (
        torch.stack([embed(sample_similarity(layer)) for embed, layer in zip(embeddings, net.values(), strict=True)], 1)
        for embeddings, net in ((method.queries, student), (method.keys, teacher))
    )
    attention = layer_attention(queries, keys)
    for i, own in enumerate(names):
        for j, other in enumerate(names):
            s, t = student[own], teacher[other]
            if i != j:
                s, t = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
            errors = (method.projections[i][j](s) - t).square().mean((1, 2))
            total = total + (attention[:, i, j] * errors).sum() / (3 * 2)
    torch.testing.assert_close(method(at)["semckd"], total)


# --- cells of a map are points, in every method ------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, layout in SERVED if layout == "map"])
def test_a_map_is_the_points_of_its_cells(name):
    """With coordinates of the cells for rkd, which looks for neighbours. PointDistiller pools those of points only."""
    student, teacher = {"x": normal(3, 6, 2)}, {"x": normal(3, 6, 4, seed=1)}
    options = {"neighbours": 1} if name == "pointdistiller" else {}
    places, losses = grid_places(values_as("map", student["x"], 2)), []
    for layout in ("points", "map"):
        at = step(layout, student, teacher, 2, places)
        method = build(name, setting(layout, student, teacher), "x", **options)
        torch.manual_seed(5)
        losses.append(method(at)[name])
    assert losses[0] > 0
    torch.testing.assert_close(*losses)


def test_cells_lie_on_a_grid():
    places = grid_places(torch.zeros(2, 5, 2, 3))
    assert places.shape == (2, 6, 3)
    assert places[1].tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0]]
    assert spatial_neighbours(places, torch.tensor([[0], [5]]), 2).tolist() == [[[1, 3]], [[2, 4]]]


def test_random_neighbours_are_other_anchors():
    anchors = torch.tensor([[7, 3, 5, 9]])
    assert random_neighbours(anchors, 2, 2).tolist() == [[[3, 5], [5, 9]]]
    assert random_neighbours(anchors, 64).tolist() == [[[3, 5, 9], [5, 9, 7], [9, 7, 3], [7, 3, 5]]]
    with pytest.raises(InputError, match="at least 2 points, rows or cells"):
        random_neighbours(anchors[:, :1], 64)


def test_rows_need_their_sample_where_samples_are_compared():
    networks, sites = setting("rows", {"x": STUDENT}, {"x": TEACHER}), Sites()
    at = step("rows", {"x": STUDENT}, {"x": TEACHER})
    for net in (at.student, at.teacher):
        net.features["x"] = Feature(net.features["x"].values, "rows", sites)
    for name in ("attention", "pointdistiller"):
        with pytest.raises(InputError, match="these rows do not tell which sample they belong to: ") as caught:
            build(name, networks, "x")(at)
        assert "\n" not in str(caught.value)


def test_attention_of_rows_is_that_of_their_samples():
    """Samples of 4 and 2 rows, mixed up: the mean over the 6 rows."""
    student, teacher, sites = normal(6, 3), normal(6, 5, seed=1), Sites(sample=torch.tensor([1, 0, 1, 1, 0, 1]))
    first, second = [0, 2, 3, 5], [1, 4]
    parts = [attention_loss([student[None, rows]], [teacher[None, rows]]) for rows in (first, second)]
    method = build("attention", setting("rows", {"x": student[None]}, {"x": teacher[None]}), "x")
    of_student, of_teacher = (Outputs(None, {"x": Feature(values, "rows", sites)}) for values in (student, teacher))
    at = DistillationContext(student=of_student, teacher=of_teacher, task_loss=never, distance=never)
    torch.testing.assert_close(method(at)["attention"], (4 * parts[0] + 2 * parts[1]) / 6)


def test_rkd_needs_coordinates_of_points():
    at = step("points", {"x": STUDENT}, {"x": TEACHER})
    sites = Sites()
    for net in (at.student, at.teacher):
        net.features["x"] = Feature(net.features["x"].values, "points", sites)
    with pytest.raises(InputError, match="the points of the feature x have no coordinates"):
        build("rkd", setting("points", {"x": STUDENT}, {"x": TEACHER}), "x")(at)


# --- what holds for all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, layout", SERVED)
def test_gradients_reach_the_student_and_never_the_teacher(name, layout):
    student, teacher = {"x": normal(3, 6, 2).requires_grad_()}, {"x": normal(3, 6, 4, seed=1).requires_grad_()}
    method, at = build(name, setting(layout, student, teacher), "x"), step(layout, student, teacher, height=2)
    method(at)[name].backward()
    assert student["x"].grad.isfinite().all() and student["x"].grad.any()
    assert teacher["x"].grad is None and all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("name, layout", SERVED)
def test_equal_counts_at_other_sites_are_refused(name, layout):
    at, other = (step(layout, {"x": STUDENT}, {"x": TEACHER}) for _ in range(2))
    at.teacher = other.teacher
    with pytest.raises(InputError, match="feature x: the student and the teacher do not stand on the same points"):
        build(name, setting(layout, {"x": STUDENT}, {"x": TEACHER}), "x")(at)


@pytest.mark.parametrize(
    "name, layout",
    [
        (n, layout)
        for n, m in METHODS.items()
        if m.layouts and n != "self"
        for layout in LAYOUTS
        if layout not in m.layouts
    ],
)
def test_other_layouts_are_refused_in_one_line(name, layout):
    with pytest.raises(InputError) as caught:
        build(name, setting(layout, {"roi": STUDENT}, {"roi": TEACHER}), "roi")
    line = str(caught.value)
    assert line.startswith(f"{name}@roi: the feature roi is rows; {name} serves points and a map only")
    assert "\n" not in line


def test_which_layouts_are_served():
    every, samples = ("points", "rows", "map"), ("points", "map")
    assert {name: method.layouts for name, method in METHODS.items()} == {
        "output": (),
        "logits": (),
        "hint": every,
        "multiscale": every,
        "pkd": every,
        "attention": every,
        "similarity": samples,
        "semckd": samples,
        "rkd": every,
        "pointdistiller": every,
        "self": ("points",),
        "online": (),
    }


def test_a_feature_of_two_layouts_is_refused():
    two = Setting({"x": Shape(2, "map")}, {"x": Shape(2, "points")}, 2)
    with pytest.raises(InputError, match="hint@x: the feature x is a map in the student and points in the teacher"):
        build("hint", two, "x")


def test_self_serves_points_of_three_levels():
    maps = {f"predictor/{level}": Shape(2, "map") for level in range(4)}
    points = {f"predictor/{level}": Shape(2, "points") for level in range(2)}
    for shapes, levels, line in (
        (maps, 4, "self@predictor: the feature predictor/0 is a map; self serves points only"),
        (points, 4, "self needs the features predictor of at least 3 levels, the student has 2"),
        (points, 0, "self compares predictions of several levels, and this task has one prediction only"),
    ):
        with pytest.raises(InputError, match=line):
            build("self", Setting(shapes, None, 2, levels=levels))
