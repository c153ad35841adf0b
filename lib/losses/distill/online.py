"""Online distillation (KDCL, Guo et al., CVPR 2020) for flow levels: two networks learn together, from scratch.

The student and its peer learn from the ground truth and from one target made of both their flows. The adaptation to
scene flow is ours. Needs no trained teacher. Every function here works on one level: flows (B, N, 3) of the two
networks and of the ground truth, metres, at the same points; targets carry no gradient.
"""

import torch
from torch import Tensor

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext, levels_of
from lib.losses.distill.method import DistillationMethod, Option, Setting
from lib.losses.distill.output import total
from lib.losses.scene_flow import multiscale_loss

HELD_OUT = 8  # pairs by which ``general`` weighs the networks (our choice)


def naive_target(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    """At every point the flow of the network with the shorter error, the first's on a tie: (B, N, 3)."""
    first, second = first.detach(), second.detach()
    errors = [torch.linalg.vector_norm(flow - truth, dim=2, keepdim=True) for flow in (first, second)]
    return torch.where(errors[0] <= errors[1], first, second)


def minerror_target(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    """At every point and axis the value with the smaller error, the first's on a tie: (B, N, 3)."""
    first, second = first.detach(), second.detach()
    return torch.where((first - truth).abs() <= (second - truth).abs(), first, second)


def mixture_terms(first: Tensor, second: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator <e_2, e_2 - e_1> and denominator ||e_2 - e_1||^2 of the first network's weight: (B,) each, m^2.

    e: error of a network, over all points of a cloud.
    """
    first, second = first.detach(), second.detach()
    apart = second - first
    return ((second - truth) * apart).sum((1, 2)), apart.square().sum((1, 2))


def mixture_weight(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The first network's weight w in [0, 1] with the least squared error of w f_1 + (1 - w) f_2; 1/2 for equal flows.

    With two networks this is also C^-1 1 / (1^T C^-1 1), C_jk = mean <e_j, e_k>, negative weights set to 0 and the
    rest divided by its sum.
    """
    differs = denominator > 0
    return torch.where(differs, numerator / torch.where(differs, denominator, 1.0), 0.5).clamp(0.0, 1.0)


def mixture(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """w f_1 + (1 - w) f_2: (B, N, 3). weight (B,) or ().

    Exactly f_1 at w = 1, f_2 at w = 0 and both where they are equal: the slope of the distance to a target that is off
    by a rounding error would be noise of full size. ``torch.lerp`` counts from the nearer end.
    """
    return torch.lerp(second.detach(), first.detach(), weight.view(-1, 1, 1))


def linear_target(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    """For every cloud the mixture of both flows, weights >= 0 of sum 1, with the least squared error: (B, N, 3)."""
    return mixture(first, second, mixture_weight(*mixture_terms(first, second, truth)))


TARGETS = {"naive": naive_target, "minerror": minerror_target, "linear": linear_target}


class OnlineDistillation(DistillationMethod):
    """sum_k lambda sum_l alpha_l E(f_k^l, t^l), k = student and peer, and the peer's own ground-truth loss.

    lambda is the weight of the term; the peer's ground-truth loss always counts 1. target: how t is made: "naive",
    "minerror", "linear", or "general": one mixture a level for all clouds, the best on held-out pairs, found anew
    before each epoch and equal parts until then. peer: name of the network that trains along.
    """

    name = "online"
    options = {
        "target": Option("linear", (*TARGETS, "general")),
        "peer": Option("teacher"),
    }
    unweighted = ("online_peer_gt",)
    needs_teacher = False
    needs_ground_truth = True
    needs_levels = True
    needs_peer = True

    def __init__(self, setting: Setting, target: str = "linear", peer: str = "teacher"):
        self.check_levels(setting)
        if setting.build_peer is None:
            raise InputError("online trains a second network along with the student, and this task builds none")
        super().__init__()
        self.peer = setting.build_peer(peer)
        self.target = target
        if target == "general":
            self.held_out = HELD_OUT
            self.register_buffer("shares", torch.full((setting.levels,), 0.5))  # of the student, a level each

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        levels, truth = levels_of(context.student, self.name), context.truth.values
        student, peer = levels.values, levels_of(context.peer, self.name).values
        if self.target == "general":
            targets = [mixture(s, p, share) for s, p, share in zip(student, peer, self.shares, strict=True)]
        else:
            targets = [TARGETS[self.target](*flows) for flows in zip(student, peer, truth, strict=True)]
        parts = {
            "online_student": multiscale_loss(student, targets, levels.weights),
            "online_peer": multiscale_loss(peer, targets, levels.weights),
            "online_peer_gt": total(context.task_loss(context.peer)),
        }
        return {"online": parts["online_student"] + parts["online_peer"], **parts}

    def refresh(self, context: DistillationContext) -> None:
        flows = context.student.levels.values, context.peer.levels.values, context.truth.values
        for level, values in enumerate(zip(*flows, strict=True)):
            numerator, denominator = mixture_terms(*values)
            self.shares[level] = mixture_weight(numerator.sum(), denominator.sum())
