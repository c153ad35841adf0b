"""Every distillation method against values worked out by hand, its invariances, and where its gradients may go."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lib.errors import InputError
from lib.features import Levels, Shape
from lib.losses import ALPHAS, multiscale_loss
from lib.losses.distill import METHODS, default_options, parse_distill
from lib.losses.distill.hint import hint_loss
from lib.losses.distill.multiscale import multiscale_feature_loss
from lib.losses.distill.pkd import pearson_loss
from lib.losses.distill.rkd import angle_loss, distance_loss, draw_anchors, flow_relation_loss, spatial_neighbours
from lib.losses.distill.self_distillation import ramped, self_feature_loss, self_flow_loss
from lib.losses.distill.semckd import attended_loss, layer_attention
from lib.losses.distill.similarity import sample_similarity
from tests.distill.steps import (
    BATCH,
    EQUAL_WIDTHS,
    SETTING,
    build,
    context,
    leaves,
    nested_sites,
    normal,
)

# Those that compare features; ``self`` compares those of one network.
FEATURE_METHODS = [name for name, method in METHODS.items() if method.layouts]


# --- what holds for all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_gradients_reach_student_and_adapters_and_never_the_teacher(name):
    method, step = build(name), context()
    losses = method(step)
    assert next(iter(losses)) == name and all(value.shape == () and value.isfinite() for value in losses.values())
    losses[name].backward()
    reached = [step.student.features[key].values.grad for key in method.features]
    assert reached and all(grad is not None and grad.isfinite().all() for grad in reached[name == "self" :])
    assert any(grad.any() for grad in reached[name == "self" :])
    for parameter, values in method.named_parameters():
        assert values.grad is not None and values.grad.isfinite().all(), parameter
    assert all(value.grad is None for value in leaves(step.teacher))


@pytest.mark.parametrize("name", ["multiscale", "pkd", "rkd"])
def test_nothing_is_lost_when_the_student_equals_the_teacher(name):
    method = build(name, EQUAL_WIDTHS)
    assert list(method.parameters()) == [], "equal widths need no adapter"
    assert method(context(EQUAL_WIDTHS, same=True))[name].item() == 0.0


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_the_loss_falls_when_student_and_adapters_follow_its_gradient(name):
    method, step = build(name), context()
    features = [step.student.features[key].values for key in method.features]
    trained = [*step.student.levels.values, *features, *method.parameters()]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        torch.manual_seed(1)  # the same anchors every time
        loss = method(step)[name]
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.3 * abs(values[0])


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if n != "self"])
def test_a_place_is_a_family_or_one_level(name):
    method = build(name, SETTING, "embedding/2")
    assert method.features == ("embedding/2",) and method(context())[name].isfinite()
    with pytest.raises(InputError, match="the student has no feature embedding/7: choose a place of pyramid1/0, "):
        build(name, SETTING, "embedding/7")
    with pytest.raises(InputError, match="the teacher has no feature predictor"):
        build(name, replace(SETTING, teacher={"pyramid1/1": Shape(3, "points")}), "predictor/1")


# --- hint --------------------------------------------------------------------------------------------------------


def test_hint_by_hand():
    regressed = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
    assert hint_loss(regressed, teacher).item() == pytest.approx((4 + 4) / (1 + 0 + 4 + 1))
    assert hint_loss(3 * regressed, 3 * teacher).item() == pytest.approx(8 / 6)
    assert hint_loss(teacher, teacher).item() == 0.0
    assert hint_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0.0


def test_hint_gradcheck_and_perfect_regressor():
    step, method = context(EQUAL_WIDTHS, same=True), build("hint", EQUAL_WIDTHS)
    with torch.no_grad():
        method.regressor.weight.copy_(torch.eye(8))
        method.regressor.bias.zero_()
    assert method(step)["hint"].item() < 1e-30
    teacher = normal(2, 3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, teacher), normal(2, 3, 4).requires_grad_())


def test_hint_compares_one_feature():
    with pytest.raises(InputError, match="hint compares one feature: choose hint@predictor/1"):
        build("hint", SETTING, "predictor")


# --- multiscale --------------------------------------------------------------------------------------------------


def test_multiscale_by_hand():
    student = [torch.zeros(1, 2, 2), torch.ones(1, 1, 4)]
    teacher = [torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.full((1, 1, 4), 3.0)]
    assert multiscale_feature_loss(student, teacher).item() == pytest.approx((1 + 4 + 0 + 1) / 4 + 4.0)
    with pytest.raises(ValueError):
        multiscale_feature_loss(student, teacher[:1])


def test_multiscale_has_adapters_only_where_widths_differ():
    setting = replace(SETTING, student={**SETTING.student, "pyramid1/2": Shape(10, "points")})
    method = build("multiscale", setting)
    assert [type(layer).__name__ for layer in method.adapters.values()] == ["Linear", "Linear", "Identity", "Linear"]
    assert method.adapters["pyramid1/0"].weight.shape == (6, 3)


def test_multiscale_gradcheck():
    teacher = [normal(2, 3, 4, seed=1), normal(2, 2, 5, seed=2)]
    student = (normal(2, 3, 4, seed=3).requires_grad_(), normal(2, 2, 5, seed=4).requires_grad_())
    assert torch.autograd.gradcheck(lambda *s: multiscale_feature_loss(s, teacher), student)


# --- pkd ---------------------------------------------------------------------------------------------------------


def test_pkd_is_one_minus_the_correlation():
    student, teacher = normal(3, 7, 5), normal(3, 7, 5, seed=1)
    r = [torch.corrcoef(torch.stack([student[..., c].flatten(), teacher[..., c].flatten()]))[0, 1] for c in range(5)]
    expected = (1 - torch.stack(r).mean()) * (21 - 1) / 21
    assert pearson_loss([student], [teacher]).item() == pytest.approx(expected.item(), rel=1e-5)
    assert pearson_loss([student] * 2, [teacher] * 2).item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_pkd_does_not_see_scale_and_offset_of_a_channel():
    student, teacher = normal(3, 7, 5), normal(3, 7, 5, seed=1)
    changed = student * torch.tensor([0.5, 2.0, 30.0, 1.0, 7.0]) + normal(5, seed=2)
    assert torch.allclose(pearson_loss([changed], [teacher]), pearson_loss([student], [teacher]), atol=1e-5)
    assert pearson_loss([3 * teacher + 1], [teacher]).item() < 1e-10
    assert pearson_loss([-teacher], [teacher]).item() == pytest.approx(2 * 20 / 21, rel=1e-4)


def test_pkd_gradcheck_and_constant_channels():
    teacher = [normal(2, 3, 4, seed=1)]
    assert torch.autograd.gradcheck(lambda s: pearson_loss([s], teacher), normal(2, 3, 4).requires_grad_())
    student = normal(2, 3, 4)
    student[..., 1] = 5.0
    pearson_loss([student.requires_grad_()], teacher).backward()
    assert student.grad.isfinite().all()


# --- semckd ------------------------------------------------------------------------------------------------------


def test_semckd_parts_by_hand():
    features = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]])
    assert sample_similarity(features).tolist() == [[5.0, 1.0], [1.0, 10.0]]
    attention = layer_attention(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[math.log(3.0), 9.0], [0.0, 9.0]]]))
    torch.testing.assert_close(attention, torch.tensor([[[0.75, 0.25]]]))
    errors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.25, 0.75]]])
    assert attended_loss(weights, errors).item() == pytest.approx((1 + 3.5 + 6 + 7.75) / 4)
    rows = layer_attention(normal(5, 3, 8), normal(5, 4, 8, seed=1)).sum(2)
    torch.testing.assert_close(rows, torch.ones(5, 3, dtype=torch.float64))


def test_semckd_with_one_layer_is_the_projected_mean_squared_error():
    method, step = build("semckd", SETTING, "pyramid1/2"), context()
    student, teacher = (feature.values for feature in step.pair("pyramid1/2"))
    expected = F.mse_loss(method.projections[0][0](student), teacher)
    torch.testing.assert_close(method(step)["semckd"], expected)


def test_semckd_compares_at_the_points_of_the_coarser_level():
    """Against the sum written out: every student layer with every teacher layer."""
    method, step = build("semckd"), context()
    names = [f"pyramid1/{level}" for level in range(4)]
    sites = step.student.levels.sites
    layers = [[net.features[name].values for name in names] for net in (step.student, step.teacher)]
    queries, keys = (
        [embed(sample_similarity(layer)) for embed, layer in zip(embeddings, of_net, strict=True)]
        for embeddings, of_net in zip((method.queries, method.keys), layers, strict=True)
    )
    assert queries[0].shape == (BATCH, 8)
    torch.testing.assert_close(queries[0].norm(dim=1), torch.ones(BATCH, dtype=torch.float64))
    total = 0.0
    for n in range(BATCH):
        for i in range(4):
            scores = torch.softmax(torch.stack([queries[i][n] @ keys[j][n] for j in range(4)]), 0)
            for j in range(4):
                student, teacher = layers[0][i], layers[1][j]
                for level in range(i + 1, j + 1):
                    student = torch.stack([s[k] for s, k in zip(student, sites[level].kept, strict=True)])
                for level in range(j + 1, i + 1):
                    teacher = torch.stack([t[k] for t, k in zip(teacher, sites[level].kept, strict=True)])
                projected = method.projections[i][j](student)
                total += scores[j] * (projected[n] - teacher[n]).square().mean() / (BATCH * 4)
    torch.testing.assert_close(method(step)["semckd"], total)


def test_semckd_refuses_another_batch():
    step = context()
    with pytest.raises(InputError, match="semckd was built for batches of 3 samples and got 4"):
        build("semckd", replace(SETTING, batch=3))(step)
    with pytest.raises(InputError, match="needs at least 2"):
        build("semckd", replace(SETTING, batch=1))


def test_semckd_gradcheck():
    queries, keys, errors = normal(3, 2, 4), normal(3, 2, 4, seed=1), normal(3, 2, 2, seed=2)
    inputs = tuple(value.requires_grad_() for value in (queries, keys, errors))
    assert torch.autograd.gradcheck(lambda q, k, e: attended_loss(layer_attention(q, k), e), inputs)


# --- rkd ---------------------------------------------------------------------------------------------------------

ANCHORS = torch.tensor([[0, 2], [4, 1]])
NEAR = torch.tensor([[[1, 2, 3], [0, 1, 4]], [[0, 1, 2], [3, 4, 0]]])


def rotated(features: torch.Tensor, scale: float) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(normal(features.shape[2], features.shape[2], seed=9))
    return scale * features @ rotation


def test_rkd_distance_by_hand():
    student = torch.tensor([[[0.0], [1.0], [3.0]]])  # distances 1, 3, 2: mean 2
    teacher = torch.tensor([[[0.0], [10.0], [0.0]]])  # 10, 0, 10: the positive ones have mean 10
    differences = torch.tensor([0.5 - 1, 1.5 - 0, 1.0 - 1]).abs()
    huber = [0.5 * 0.5**2, differences[1] - 0.5, 0.0]
    assert distance_loss(student, teacher).item() == pytest.approx(2 * sum(huber) / 9)


def test_rkd_angle_by_hand():
    student = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])  # a right angle at point 0: cosine 0
    teacher = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 3.0]]])  # 45 degrees
    at, to = torch.tensor([[0]]), torch.tensor([[[1, 2]]])
    expected = 2 * 0.5 * 0.5 / 4  # two of the four entries differ, by cos 45 degrees
    assert angle_loss(student, teacher, at, to).item() == pytest.approx(expected)


def test_rkd_flow_relation_by_hand():
    student = torch.tensor([[[0.0, 0, 0], [3.0, 4.0, 0], [0.0, 0.01, 0]]])
    teacher = torch.zeros(1, 3, 3)
    at, to = torch.tensor([[0]]), torch.tensor([[[1, 2]]])
    expected = ((5 - 0.025) + 0.5 * 0.01**2 / 0.05) / 2
    assert flow_relation_loss(student, teacher, at, to).item() == pytest.approx(expected)
    assert flow_relation_loss(teacher + 7, teacher, at, to).item() == 0.0


def test_rkd_sees_neither_rotation_nor_scale_but_order():
    teacher = normal(2, 5, 4)
    for student in (rotated(teacher, 0.2), rotated(teacher, 50.0), teacher + 3):
        assert distance_loss(student, teacher).item() < 1e-20
        assert angle_loss(student, teacher, ANCHORS, NEAR).item() < 1e-20
    shuffled = teacher[:, [2, 0, 4, 1, 3]]
    assert distance_loss(shuffled, teacher) > 1e-3 and angle_loss(shuffled, teacher, ANCHORS, NEAR) > 1e-3


def test_rkd_takes_a_mean_distance_for_each_cloud():
    teacher = normal(2, 5, 4)
    student = torch.stack([teacher[0] * 3, teacher[1] * 100])
    assert distance_loss(student, teacher).item() < 1e-20


@pytest.mark.parametrize("coincident", [[0, 2], [0, 1, 2, 3, 4]])
def test_rkd_has_finite_gradients_where_points_coincide(coincident):
    student, teacher = normal(2, 5, 4), normal(2, 5, 4, seed=1)
    flow = normal(2, 5, 3)
    student[:, coincident] = student[:, :1].clone()
    flow[:, coincident] = flow[:, :1].clone()
    student.requires_grad_()
    flow.requires_grad_()
    loss = distance_loss(student, teacher) + angle_loss(student, teacher, ANCHORS, NEAR)
    (loss + flow_relation_loss(flow, normal(2, 5, 3, seed=2), ANCHORS, NEAR)).backward()
    assert student.grad.isfinite().all() and flow.grad.isfinite().all() and student.grad.abs().max() < 100


def test_rkd_gradcheck():
    teacher, teacher_flow = normal(2, 5, 6, seed=1), normal(2, 5, 3, seed=2)
    student, flow = normal(2, 5, 4).requires_grad_(), normal(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distance_loss(s, teacher), student)
    anchors = torch.tensor([[0, 3], [1, 2]])
    apart = torch.tensor([[[1, 2, 4], [0, 1, 4]], [[0, 4, 2], [3, 4, 0]]])  # no anchor among its neighbours
    assert torch.autograd.gradcheck(lambda s: angle_loss(s, teacher, anchors, apart), student)
    assert torch.autograd.gradcheck(lambda f: flow_relation_loss(f, teacher_flow, anchors, apart), flow)


def test_rkd_anchors_are_different_points_redrawn_and_repeatable():
    xyz = normal(3, 300, 3)
    torch.manual_seed(0)
    first, second = draw_anchors(xyz), draw_anchors(xyz)
    assert first.shape == (3, 256) and all(len(set(row)) == 256 for row in first.tolist())
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    torch.manual_seed(0)
    assert torch.equal(draw_anchors(xyz), first)
    assert sorted(draw_anchors(xyz[:, :5])[0].tolist()) == [0, 1, 2, 3, 4]


def test_rkd_neighbours_are_other_points_in_space():
    xyz = torch.tensor([[[0.0, 0, 0], [5.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]]])
    assert spatial_neighbours(xyz, torch.tensor([[0, 1]]), 2).tolist() == [[[2, 3], [3, 2]]]
    assert spatial_neighbours(xyz, torch.tensor([[3]])).tolist() == [[[1, 2, 0]]]
    with pytest.raises(InputError, match="at least 2 points, rows or cells"):
        spatial_neighbours(xyz[:, :1], torch.tensor([[0]]))


def test_rkd_an_anchor_is_not_its_own_neighbour_where_points_coincide():
    """The search names coinciding points in the order of their indices: 2 before 7, whichever of them asks."""
    xyz = normal(1, 9, 3)
    xyz[0, 7] = xyz[0, 2]
    first, second = spatial_neighbours(xyz, torch.tensor([[2, 7]]), 3)[0].tolist()
    assert first[0] == 7 and second[0] == 2 and first[1:] == second[1:] and not {2, 7} & set(first[1:])
    same = torch.ones(1, 5, 3)  # of anchors 3 and 4 the 3 candidates are 0, 1, 2
    assert spatial_neighbours(same, torch.tensor([[0, 1, 3, 4]]), 2).tolist() == [[[1, 2], [0, 2], [1, 2], [1, 2]]]


def test_rkd_adds_its_parts():
    losses = build("rkd")(context())
    total = losses["rkd_distance"] + 2 * losses["rkd_angle"] + losses["rkd_flow"]
    assert list(losses) == ["rkd", "rkd_distance", "rkd_angle", "rkd_flow"] and torch.equal(losses["rkd"], total)


# --- options ----------------------------------------------------------------------------------------------------


def test_the_options_are_those_of_the_constructor():
    for name, method in METHODS.items():
        for key, option in method.options.items():
            parameter = inspect.signature(method).parameters[key]
            assert parameter.default == option.default and type(option.default) is type(parameter.default), (name, key)
    assert default_options() == [
        "logits+temperature=4.0+sigmoid=off+scaled=on:1",
        "pointdistiller+mode=paper+kept=512+neighbours=32+temperature=auto+reweight=on+local=on+width=auto"
        "+freeze_teacher=off:1",
        "online+target=linear+peer=teacher:1",
    ]
    assert [str(parse_distill(text).terms[0]) for text in default_options()] == default_options()


# --- self --------------------------------------------------------------------------------------------------------


def test_self_added_to_the_base_loss_is_the_published_mixture():
    method, step = build("self"), context()
    total = multiscale_loss(step.student.levels.values, step.truth.values) + method(step)["self"]
    a, flows = 0.3, step.student.levels.values
    sites = step.student.levels.sites
    taught = [level.bring_down(flows[0], sites[0]) for level in sites]
    expected = ALPHAS[0] * (flows[0] - step.truth.values[0]).norm(dim=2).sum(1).mean()
    for level in (1, 2, 3):
        to_truth = (flows[level] - step.truth.values[level]).norm(dim=2).sum(1).mean()
        to_finest = (flows[level] - taught[level]).norm(dim=2).sum(1).mean()
        expected = expected + ALPHAS[level] * ((1 - a) * to_truth + a * to_finest)
    finest = [level.bring_down(step.student.features["predictor/0"].values, sites[0]) for level in sites]
    for level, adapt in zip((1, 2), method.adapters, strict=True):
        difference = adapt(step.student.features[f"predictor/{level}"].values) - finest[level]
        expected = expected + 0.03 * difference.square().sum(2).mean()
    torch.testing.assert_close(total, expected)


def test_self_with_nothing_to_add_is_the_base_loss():
    step = context()
    base = multiscale_loss(step.student.levels.values, step.truth.values)
    assert torch.equal(base + build("self", amount=0.0, feature_weight=0.0)(step)["self"], base)


def test_self_does_not_pull_the_finest_level():
    method, step = build("self"), context()
    method(step)["self"].backward()
    assert step.student.levels.values[0].grad is None and step.student.features["predictor/0"].values.grad is None
    assert all(flow.grad is not None for flow in step.student.levels.values[1:])


def test_self_is_zero_when_all_levels_agree():
    step = context()
    sites = step.student.levels.sites
    flows = [level.bring_down(step.student.levels.values[0], sites[0]) for level in sites]
    assert self_flow_loss(Levels(flows, sites, ALPHAS)).item() == 0.0
    assert self_feature_loss(flows[1:], flows[1:]).item() == 0.0


def test_self_grows_over_the_first_tenth_of_the_training():
    assert [ramped(0.3, p) for p in (0.0, 0.05, 0.1, 0.5, 1.0)] == pytest.approx([0.0, 0.15, 0.3, 0.3, 0.3])
    method, step = build("self", feature_weight=0.0), context()
    whole = method(step)["self"]
    step.progress = 0.05
    torch.testing.assert_close(method(step)["self"], whole / 2)


def test_self_gradcheck():
    flows = tuple(normal(2, n, 3, seed=i).requires_grad_() for i, n in enumerate((4, 3, 2, 2)))
    sites, finest = nested_sites((4, 3, 2, 2), 2), flows[0].detach()
    assert torch.autograd.gradcheck(lambda *f: self_flow_loss(Levels((finest, *f), sites, ALPHAS)), flows[1:])
    taught = [normal(2, 3, 4, seed=7)]
    assert torch.autograd.gradcheck(lambda a: self_feature_loss([a], taught), normal(2, 3, 4).requires_grad_())
