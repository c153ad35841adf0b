"""The multi-scale loss and output distillation, against values worked out by hand."""

import pytest
import torch

from lib.errors import InputError
from lib.features import Levels, Outputs
from lib.losses import ALPHAS, gather_levels, multiscale_loss, output_distillation
from lib.losses.distill import DistillationContext, OutputDistillation


def levels(batch: int = 2, sizes: tuple[int, ...] = (8, 4, 3, 2), seed: int = 0, dtype=torch.float32) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, n, 3, generator=generator, dtype=dtype) for n in sizes]


def context(student: list, teacher: list | None, targets: list | None, final_only: bool = False) -> DistillationContext:
    def of(flows: list) -> Outputs:
        return Outputs(None, levels=Levels(flows, (), ALPHAS))

    return DistillationContext(
        student=of(student),
        teacher=teacher and of(teacher),
        task_loss=lambda output: {"flow": multiscale_loss(output.levels.values, targets)},
        distance=lambda s, t: {"flow": output_distillation(s.levels.values, t.levels.values, final_only)},
    )


def test_gather_levels_follows_the_chain():
    values = torch.arange(10.0).view(1, 5, 2)
    first = torch.tensor([[4, 0, 2]])
    second = torch.tensor([[2, 0]])  # into the three kept before: points 2 and 4
    finest, middle, coarse = gather_levels(values, [None, first, second])
    assert finest is values
    assert middle.tolist() == [[[8, 9], [0, 1], [4, 5]]]
    assert coarse.tolist() == [[[4, 5], [8, 9]]]


def test_multiscale_loss_by_hand():
    flows = [torch.zeros(2, n, 3) for n in (4, 3, 2, 1)]
    targets = [torch.zeros(2, n, 3) for n in (4, 3, 2, 1)]
    targets[0][0, 0] = torch.tensor([3.0, 4.0, 0.0])  # 5 m in one of two scenes: mean over the batch 2.5
    targets[0][1, 2] = torch.tensor([0.0, 0.0, 1.0])  # 0.5
    targets[2][:, :, 1] = -2.0  # two points of 2 m in each scene: 4
    targets[3][1, 0, 0] = 10.0  # 5
    expected = 0.02 * 3.0 + 0.08 * 4.0 + 0.16 * 5.0
    assert multiscale_loss(flows, targets).item() == pytest.approx(expected, rel=1e-6)
    assert multiscale_loss(flows, targets, alphas=(1, 0, 0, 0)).item() == pytest.approx(3.0)


def test_multiscale_loss_does_not_depend_on_the_batch_size():
    flows, targets = levels(4), levels(4, seed=1)
    whole = multiscale_loss(flows, targets)
    scenes = [multiscale_loss([f[i : i + 1] for f in flows], [t[i : i + 1] for t in targets]) for i in range(4)]
    assert torch.allclose(whole, torch.stack(scenes).mean())


def test_multiscale_loss_gradcheck():
    flows = [flow.requires_grad_() for flow in levels(dtype=torch.float64)]
    targets = [target.requires_grad_() for target in levels(seed=1, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: multiscale_loss(x[:4], x[4:]), (*flows, *targets))


def test_multiscale_loss_gradient_is_zero_where_the_flow_is_right():
    flows = [flow.requires_grad_() for flow in levels()]
    multiscale_loss(flows, [flow.detach().clone() for flow in flows]).backward()
    assert all((flow.grad == 0).all() for flow in flows)


@pytest.mark.parametrize("targets", [levels(sizes=(8, 4, 3, 1)), levels()[:3], levels(batch=1)])
def test_multiscale_loss_rejects_shapes_that_differ(targets):
    with pytest.raises(InputError, match="do not go together"):
        multiscale_loss(levels(), targets)


def test_output_distillation_is_the_same_distance_to_the_teacher():
    student, teacher = levels(), levels(seed=1)
    assert torch.equal(output_distillation(student, teacher), multiscale_loss(student, teacher))
    finest = ALPHAS[0] * (student[0] - teacher[0]).norm(dim=2).sum(1).mean()
    assert torch.allclose(output_distillation(student, teacher, final_only=True), finest)


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.5, 0.7])
def test_output_method_mixes_both_terms(gamma):
    student, teacher, targets = levels(), levels(seed=1), levels(seed=2)
    losses = OutputDistillation(gamma)(context(student, teacher, targets))
    assert list(losses) == ["loss", "loss_gt", "loss_kd"]
    expected = gamma * multiscale_loss(student, teacher) + (1 - gamma) * multiscale_loss(student, targets)
    assert torch.allclose(losses["loss"], expected)


def test_gamma_0_is_exactly_the_ground_truth_loss_and_takes_no_teacher():
    method = OutputDistillation(0.0)
    student, targets = [flow.requires_grad_() for flow in levels()], levels(seed=2)
    losses = method(context(student, None, targets))
    assert (method.needs_teacher, method.needs_ground_truth) == (False, True)
    assert "loss_kd" not in losses and torch.equal(losses["loss"], multiscale_loss(student, targets))


def test_gamma_1_is_exactly_the_teacher_loss_and_takes_no_ground_truth():
    method = OutputDistillation(1.0)
    student, teacher = levels(), levels(seed=1)
    losses = method(context(student, teacher, None))
    assert (method.needs_teacher, method.needs_ground_truth) == (True, False)
    assert "loss_gt" not in losses and torch.equal(losses["loss"], multiscale_loss(student, teacher))


def test_no_gradient_reaches_the_teacher():
    student, teacher = ([flow.requires_grad_() for flow in levels(seed=seed)] for seed in (0, 1))
    OutputDistillation(0.5)(context(student, teacher, levels(seed=2)))["loss"].backward()
    assert all(flow.grad is not None for flow in student) and all(flow.grad is None for flow in teacher)


@pytest.mark.parametrize("final_only", [False, True])
def test_output_gradcheck(final_only):
    """The student's flows move, the teacher's do not."""
    student = [flow.requires_grad_() for flow in levels(dtype=torch.float64)]
    teacher, targets = levels(seed=1, dtype=torch.float64), levels(seed=2, dtype=torch.float64)
    method = OutputDistillation(0.3)
    assert torch.autograd.gradcheck(
        lambda *flows: method(context(flows, teacher, targets, final_only))["loss"], student
    )


@pytest.mark.parametrize("gamma", [1.5, -0.1, float("nan"), float("inf")])
def test_gamma_outside_0_to_1_is_refused(gamma):
    with pytest.raises(InputError, match=r"gamma must be in \[0, 1\]"):
        OutputDistillation(gamma)


def test_levels_of_other_sizes_are_refused_unless_only_the_finest_counts():
    student, teacher = levels(), levels(sizes=(8, 5, 3, 2), seed=1)
    with pytest.raises(InputError, match=r"\[8, 4, 3, 2\] points and the teacher's \[8, 5, 3, 2\].*--final-only"):
        output_distillation(student, teacher)
    assert output_distillation(student, teacher, final_only=True) > 0


@pytest.mark.parametrize("gamma, names", [(0.0, {"loss_gt", "near", "far"}), (1.0, {"loss_kd", "centre", "size"})])
def test_parts_are_added_up_and_named_and_what_has_no_weight_is_not_computed(gamma, names):
    """By hand: parts of 1 and 2 against the truth, 4 and 8 against the teacher."""
    asked = []

    def parts(**values: float) -> dict[str, torch.Tensor]:
        asked.append(values)
        return {name: torch.tensor(value) for name, value in values.items()}

    def losses(gamma: float) -> dict[str, torch.Tensor]:
        step = DistillationContext(
            student=Outputs("s"),
            teacher=Outputs("t"),
            task_loss=lambda output: parts(near=1.0, far=2.0) if output.prediction == "s" else {},
            distance=lambda s, t: parts(centre=4.0, size=8.0) if (s.prediction, t.prediction) == ("s", "t") else {},
        )
        return {name: value.item() for name, value in OutputDistillation(gamma)(step).items()}

    assert set(losses(gamma)) == {"loss", *names} and len(asked) == 1
    both = losses(0.25)
    assert list(both) == ["loss", "loss_gt", "loss_kd", "near", "far", "centre", "size"]
    assert (both["loss"], both["loss_gt"], both["loss_kd"]) == (0.25 * 12 + 0.75 * 3, 3, 12)


def test_two_parts_of_one_name_are_a_mistake_of_the_task():
    parts = {"box": torch.tensor(1.0), "class": torch.tensor(2.0)}
    step = DistillationContext(
        student=Outputs(None), teacher=Outputs(None), task_loss=lambda _: parts, distance=lambda *_: parts
    )
    with pytest.raises(ValueError, match="two parts of a loss have the name box, class"):
        OutputDistillation(0.5)(step)
