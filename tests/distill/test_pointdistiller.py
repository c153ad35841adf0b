"""PointDistiller: every part by hand, the whole against loops, and the two modes on points, rows and maps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Feature, Outputs, Shape, Sites
from lib.losses.distill import DistillationContext, Setting
from lib.losses.distill.method import DistillationMethod
from lib.losses.distill.pointdistiller import (
    feature_neighbours,
    graph_loss,
    importance_weights,
    important_points,
    neighbourhoods_of_rows,
    omega_of,
)
from tests.distill.steps import STUDENT, build, context, never, normal

# --- the parts ---------------------------------------------------------------------------------------------------


def test_keeps_the_most_important_points():
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 5.0], [5.0, -9.0], [2.0, 2.0]]])
    importance = teacher.amax(2)
    assert important_points(importance, 3).tolist() == [[1, 2, 3]]  # 5, 5 and 2; of equal ones the lower index first
    assert important_points(importance).tolist() == [[1, 2, 3, 0]]
    assert torch.equal(important_points(torch.ones(1, 2000))[0], torch.arange(512))


def test_neighbours_are_near_in_the_teachers_features():
    teacher = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [1.0, 0.0], [7.0, 0.0]]])
    assert feature_neighbours(teacher, torch.tensor([[0, 1]]), 2).tolist() == [[[0, 2], [1, 3]]]
    assert feature_neighbours(teacher, torch.tensor([[3]])).tolist() == [[[3, 1, 2, 0]]]


def test_weights_and_loss_by_hand():
    importance = torch.tensor([[math.log(3.0), 0.0]])
    torch.testing.assert_close(importance_weights(importance), torch.tensor([[0.75, 0.25]]))
    flatter = importance_weights(importance, temperature=2.0)
    assert flatter.sum().item() == pytest.approx(1.0) and flatter[0, 0] < 0.75
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    weights = torch.tensor([[0.75, 0.25]])
    expected = 2 * (2 * 0.75 * 1 + 2 * 0.25 * 4) / 4
    assert graph_loss(student, torch.zeros(1, 2, 2), 2 * weights).item() == pytest.approx(expected)
    apart = student.unsqueeze(2).expand(-1, -1, 3, -1)  # 3 neighbours that are not pooled, all alike
    assert graph_loss(apart, torch.zeros(1, 2, 3, 2), 2 * weights).item() == pytest.approx(expected)


def test_graph_layer_is_that_of_the_concatenated_edges():
    layer = build("pointdistiller").graphs[0][0]
    features, kept = normal(2, 9, 4), torch.tensor([[3, 1], [0, 8]])
    near = torch.tensor([[[3, 2, 5], [1, 0, 4]], [[0, 6, 7], [8, 1, 2]]])
    edges = torch.stack(
        [
            torch.stack(
                [
                    torch.stack([torch.cat([features[b, j], features[b, i]]) for j in near[b, n]])
                    for n, i in enumerate(kept[b])
                ]
            )
            for b in range(2)
        ]
    )  # (B, n, K, 2C)
    weight = torch.cat([layer.neighbour.weight, layer.centre.weight], 1)
    values = (edges @ weight.t()).flatten(0, 2)
    values = (values - values.mean(0)) / (values.var(0, unbiased=False) + layer.norm.eps).sqrt()
    expected = F.relu(values).view(2, 2, 3, -1).amax(2)
    torch.testing.assert_close(layer(features, kept, near), expected)


def test_uses_the_teachers_neighbours_for_the_student():
    method, step = build("pointdistiller"), context()
    seen = []
    for layer in method.graphs[0]:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1:]))
    method(step)
    teacher = step.teacher.features["pyramid1/1"].values
    kept = important_points(teacher.amax(2))
    for given in seen:
        assert torch.equal(given[0], kept) and torch.equal(given[1], feature_neighbours(teacher, kept))
    assert len(seen) == 2


def test_switches():
    method, step = build("pointdistiller", freeze_teacher=True), context()
    student_graph, teacher_graph = method.graphs[0]
    method(step)["pointdistiller"].backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher_graph.parameters())
    assert all(p.grad is not None for p in student_graph.parameters())
    assert {p.shape[0] for p in teacher_graph.parameters()} == {STUDENT["pyramid1"][1]}
    plain = build("pointdistiller", reweight=False)
    student, teacher = (feature.values for feature in step.pair("pyramid1/1"))
    kept = important_points(teacher.amax(2))
    near = feature_neighbours(teacher, kept)
    student_graph, teacher_graph = plain.graphs[0]
    difference = teacher_graph(teacher, kept, near) - student_graph(student, kept, near)
    torch.testing.assert_close(plain(step)["pointdistiller"], 2 * difference.square().mean())


def test_numbers_reach_the_loss():
    """With K = 1 a kept point's graph is the point itself; tau large makes the weights equal."""
    step, name = context(), "pyramid1/1"
    teacher = step.teacher.features[name].values
    kept = important_points(teacher.amax(2), 5)
    alone = kept.unsqueeze(2)
    assert torch.equal(feature_neighbours(teacher, kept, 1), alone)
    chosen = build("pointdistiller", kept=5, neighbours=1, temperature=1e9)
    student_graph, teacher_graph = chosen.graphs[0]
    graphs = (student_graph(step.student.features[name].values, kept, alone), teacher_graph(teacher, kept, alone))
    expected = 2 * (graphs[0] - graphs[1]).square().mean()
    torch.testing.assert_close(chosen(step)["pointdistiller"], expected)
    sharp = build("pointdistiller", kept=5, neighbours=1, temperature=0.1)(step)["pointdistiller"]
    assert abs(sharp - expected) > 0.01 * expected


def test_gradcheck():
    layer = build("pointdistiller").graphs[0][0]
    kept, near = torch.tensor([[3, 1]]), torch.tensor([[[3, 2, 0], [1, 0, 4]]])
    target, weights = normal(1, 2, 4, seed=1), torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    features = normal(1, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: graph_loss(layer(f, kept, near), target, weights), features)


# --- the whole, on every layout ----------------------------------------------------------------------------------

LAYOUTS = ("points", "rows", "map")
SAMPLE = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0])  # 5 rows of sample 0 and 7 of sample 1
COUNTS = torch.tensor([3, 9, 32, 1, 5, 32, 7, 2, 4, 6, 8, 10])  # of points in each of 12 pillars
TAU = 1.5


def built(layout: str, widths: tuple[int, int] = (3, 4), names: tuple[str, ...] = ("x",), **options: object):
    student, teacher = ({name: Shape(width, layout) for name in names} for width in widths)
    return build("pointdistiller", Setting(student, teacher, 2), "x", **options)


def features(layout: str, width: int, seed: int, sites: Sites, importance: Tensor | None = None) -> Feature:
    """2 clouds of 6 points, 12 rows of two samples, or 2 maps of 2 x 3 cells."""
    shape = {"points": (2, 6, width), "rows": (12, width), "map": (2, width, 2, 3)}[layout]
    return Feature(normal(*shape, seed=seed).requires_grad_(), layout, sites, importance)


def step_of(student: dict[str, Feature], teacher: dict[str, Feature]) -> DistillationContext:
    return DistillationContext(
        student=Outputs(None, student), teacher=Outputs(None, teacher), task_loss=never, distance=never
    )


def step_on(layout: str, importance: Tensor | None = None, widths: tuple[int, int] = (3, 4)) -> DistillationContext:
    sites = Sites(sample=SAMPLE if layout == "rows" else None)
    student, teacher = (features(layout, width, seed, sites, importance) for seed, width in enumerate(widths))
    return step_of({"x": student}, {"x": teacher})


def samples_of(feature: Feature) -> list[Tensor]:
    """(N_b, C) of each sample."""
    if feature.layout == "rows":
        return [feature.values[sample == SAMPLE] for sample in (0, 1)]
    return list(feature.by_position())


def edges_of(layer: nn.Module, samples: list[Tensor], pairs: list[list[list[int]]]) -> list[Tensor]:
    """Graph features (n, K, C') of each sample, pair by pair. pairs[b]: lists of a position and its neighbours."""
    weight = torch.cat([layer.neighbour.weight, layer.centre.weight], 1)  # (C', 2 C)
    edges = [
        torch.stack([torch.stack([weight @ torch.cat([z[j], z[i]]) for j in near]) for i, *near in of_sample])
        for z, of_sample in zip(samples, pairs, strict=True)
    ]
    every = torch.cat([edge.flatten(0, 1) for edge in edges])
    mean, deviation = every.mean(0), (every.var(0, unbiased=False) + layer.norm.eps).sqrt()
    return [((edge - mean) / deviation).relu() for edge in edges]


def loss_by_loops(method: DistillationMethod, at: DistillationContext, count: int, neighbours: int) -> Tensor:
    """The loss of mode paper at tau ``TAU``, sample by sample."""
    student, teacher = at.student.features["x"], at.teacher.features["x"]
    of_student, of_teacher = samples_of(student), samples_of(teacher)
    known = None
    if teacher.importance is not None:
        known = samples_of(Feature(teacher.importance.unsqueeze(-1), teacher.layout, teacher.sites))
    pairs, importance = [], []
    for b, z in enumerate(of_teacher):
        importance.append(z.max(1).values if known is None else known[b].flatten())
        kept = sorted(range(len(z)), key=lambda i: (-importance[b][i].item(), i))[:count]
        near = [sorted(range(len(z)), key=lambda j: (z[i] - z[j]).norm().item())[:neighbours] for i in kept]
        pairs.append([[i, *js] for i, js in zip(kept, near, strict=True)])
    graphs = [edges_of(layer, z, pairs) for layer, z in zip(method.graphs[0], (of_student, of_teacher), strict=True)]
    total, numbers = 0.0, 0
    for b, (s, t) in enumerate(zip(*graphs, strict=True)):
        if teacher.layout == "points":
            s, t = s.amax(1), t.amax(1)
        for n, (i, *_) in enumerate(pairs[b]):
            strengths = importance[b][[i for i, *_ in pairs[b]]] if known else t.flatten(1).amax(1)
            phi = (strengths[n] / TAU).exp() / (strengths / TAU).exp().sum()
            total = total + (len(pairs[b]) * phi * (t[n] - s[n]).square()).sum()
            numbers += s[n].numel()
    return 2 * total / numbers


@pytest.mark.parametrize("layout, known", [*((layout, False) for layout in LAYOUTS), ("rows", True)])
def test_the_loss_of_mode_paper_against_loops(layout, known):
    at = step_on(layout, COUNTS if known else None)
    method = built(layout, kept=4, neighbours=3, temperature=TAU, width=5)
    torch.testing.assert_close(method(at)["pointdistiller"], loss_by_loops(method, at, 4, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_equal_features_and_layers_lose_nothing(layout, mode):
    at, method = step_on(layout, widths=(4, 4)), built(layout, (4, 4), kept=4, neighbours=3, mode=mode)
    at.student.features["x"] = at.teacher.features["x"]
    assert method(at)["pointdistiller"] > 0
    method.graphs[0][1].load_state_dict(method.graphs[0][0].state_dict())
    assert method(at)["pointdistiller"].item() == 0.0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_the_order_of_candidates_does_not_matter_and_no_gradient_reaches_the_teacher(layout, mode):
    at, method = step_on(layout), built(layout, kept=4, neighbours=3, mode=mode)
    loss = method(at)["pointdistiller"]
    loss.backward()
    student, teacher = at.student.features["x"], at.teacher.features["x"]
    assert student.values.grad.any() and teacher.values.grad is None
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    if layout == "rows":
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        sites, moved = Sites(sample=SAMPLE[order]), lambda values: values[order]
    elif layout == "points":
        sites, moved = Sites(), lambda values: values[:, order]
    else:
        sites, moved = Sites(), lambda values: values.flatten(2)[:, :, order].view(values.shape)
    changed = [Feature(moved(feature.values), layout, sites) for feature in (student, teacher)]
    torch.testing.assert_close(method(step_of({"x": changed[0]}, {"x": changed[1]}))["pointdistiller"], loss)


def test_omega_of_counts():
    """Of a sample alone, and of two samples behind each other."""
    counts = torch.tensor([[32.0, 32.0, 5.0, 1.0]])
    torch.testing.assert_close(omega_of(counts, (4,), 0.01), torch.tensor([[2.0, 2.0, 0.0, 0.0]]))
    expected = torch.tensor([[1.9465, 1.9465, 0.0666, 0.0404]])
    torch.testing.assert_close(omega_of(counts, (4,), 8.0), expected, atol=1e-4, rtol=0)
    two = omega_of(torch.cat([counts, counts[:, :2]], 1), (4, 2), 8.0)
    torch.testing.assert_close(two, F.pad(expected, (0, 2), value=1.0), atol=1e-4, rtol=0)
    assert omega_of(counts.half(), (4,), 1e-4).isfinite().all()  # 16 bits cannot hold the quotient


@pytest.mark.parametrize("mode, tau", [("paper", 8.0), ("reference", 0.01)])
def test_counts_have_a_temperature_of_their_own(mode, tau):
    at = step_on("rows", COUNTS)
    given, auto = (built("rows", kept=4, neighbours=3, mode=mode, temperature=t) for t in (tau, None))
    assert torch.equal(given(at)["pointdistiller"], auto(at)["pointdistiller"])


def test_mode_reference_takes_the_rows_of_a_batch_together():
    """Only the rows with the largest count matter, equally: rows 2 and 5, both of sample 1, of 12 kept."""
    method, at = built("rows", kept=12, neighbours=12, mode="reference"), step_on("rows", COUNTS)
    loss = method(at)["pointdistiller"]
    kept, near = torch.tensor([[2, 5]]), torch.arange(12).expand(1, 12, -1)
    everything = torch.arange(12)[None]
    graphs = [
        layer(net.features["x"].values[None], everything, near)
        for layer, net in zip(method.graphs[0], (at.student, at.teacher), strict=True)
    ]
    squares = (graphs[0] - graphs[1])[0, kept[0]].square()
    torch.testing.assert_close(loss, 2 * 6 * squares.sum() / graphs[0].numel())
    without = step_of(
        {"x": Feature(at.student.features["x"].values, "rows", sites := Sites())},
        {"x": Feature(at.teacher.features["x"].values, "rows", sites, COUNTS)},
    )
    assert torch.equal(method(without)["pointdistiller"], loss), "which sample a row belongs to does not matter"
    with pytest.raises(
        InputError, match=r"pointdistiller@x keeps rows of each sample, .*: add \+mode=reference"
    ) as error:
        built("rows")(without)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout, omega", [("map", 2), ("points", 1), ("rows", 1)])
def test_mode_reference_weighs_other_features_alike(layout, omega):
    """Maps by the batch size B: the loss is 2 B times the mean squared error of the graphs."""
    at = step_on(layout)
    method, plain = (
        built(layout, kept=4, neighbours=3, mode="reference", reweight=reweight) for reweight in (True, False)
    )
    torch.testing.assert_close(method(at)["pointdistiller"], omega * plain(at)["pointdistiller"])
    if layout == "map":
        teacher = at.teacher.features["x"].by_position()
        kept = important_points(teacher.amax(2), 4)
        near = feature_neighbours(teacher, kept, 3)
        graphs = [
            layer(net.features["x"].by_position(), kept, near)
            for layer, net in zip(method.graphs[0], (at.student, at.teacher), strict=True)
        ]
        torch.testing.assert_close(method(at)["pointdistiller"], 2 * 2 * F.mse_loss(*graphs))


def test_rows_are_kept_in_each_sample():
    """Two samples, one with fewer rows than N and than K: its neighbours are repeated."""
    teacher = torch.tensor([[0.0], [5.0], [1.0], [6.0], [3.0]])
    importance = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0])
    samples = Sites(sample=torch.tensor([0, 2, 0, 2, 0])).rows_of_samples()
    assert [rows.tolist() for rows in samples] == [[0, 2, 4], [1, 3]]
    found = neighbourhoods_of_rows(teacher, importance, samples, 2, 3)
    assert found.kept.tolist() == [[4, 2, 1, 3]] and found.sizes == (2, 2)
    assert found.near.tolist() == [[[4, 2, 0], [2, 0, 4], [1, 3, 1], [3, 1, 3]]]
    assert neighbourhoods_of_rows(teacher, importance, samples, 2, 0).near.shape == (1, 4, 0)


@pytest.mark.parametrize(
    "layout, width, layers, parameters",
    [
        ("rows", (64, 32), {}, (2112, 4160)),  # PointPillars 4X
        ("points", (128, 45), {}, (4140, 11610)),  # PointRCNN 8X
        ("map", (256, 128), {"width": 32}, (8256, 16448)),  # the second stage of SECOND 4X
    ],
)
def test_parameters_of_the_graph_layers(layout, width, layers, parameters):
    pair = built(layout, width[::-1], **layers).graphs[0]
    assert tuple(sum(p.numel() for p in layer.parameters()) for layer in pair) == parameters


def test_the_losses_of_several_features_are_summed():
    names = ("x/0", "x/1")
    method = built("map", names=names, kept=4, neighbours=3)
    sites = [Sites(), Sites()]
    student, teacher = (
        {name: features("map", width, 10 * seed + i, sites[i]) for i, name in enumerate(names)}
        for seed, width in enumerate((3, 4))
    )
    total = 0.0
    for i, name in enumerate(names):
        alone = built("map", kept=4, neighbours=3)
        alone.graphs[0].load_state_dict(method.graphs[i].state_dict())
        total = total + alone(step_of({"x": student[name]}, {"x": teacher[name]}))["pointdistiller"]
    torch.testing.assert_close(method(step_of(student, teacher))["pointdistiller"], total)


def test_weighting_alone_compares_features():
    """In place of graphs the features themselves, after a 1x1 layer to the teacher's width."""
    at, method = step_on("rows"), built("rows", kept=2, local=False)
    layer = method.graphs[0][0].adapter
    assert sum(p.numel() for p in method.parameters()) == 3 * 4 + 4
    total = 0.0
    for student, teacher in zip(*(samples_of(net.features["x"]) for net in (at.student, at.teacher)), strict=True):
        most = teacher.amax(1).topk(2)
        phi = torch.softmax(most.values, 0)
        squares = (layer(student[most.indices]) - teacher[most.indices]).square()
        total = total + (2 * phi.unsqueeze(1) * squares).sum()
    torch.testing.assert_close(method(at)["pointdistiller"], 2 * total / (2 * 2 * 4))
    for options in ({"width": 8}, {"freeze_teacher": True}):
        with pytest.raises(InputError, match="local=off has no graph layers: leave out width and freeze_teacher"):
            built("rows", local=False, **options)


def test_distances_in_parts_are_the_same(monkeypatch):
    teacher = normal(2, 40, 5)
    kept = important_points(teacher.amax(2), 30)
    whole = feature_neighbours(teacher, kept, 8)
    assert torch.equal(feature_neighbours(teacher, kept, 8, exact=False), whole)
    monkeypatch.setattr("lib.losses.distill.pointdistiller.DISTANCES", 2 * 40 * 7)
    assert torch.equal(feature_neighbours(teacher, kept, 8), whole)
    monkeypatch.setattr("lib.losses.distill.pointdistiller.DISTANCES", 1)
    assert torch.equal(feature_neighbours(teacher, kept, 8), whole)
