"""Output distillation: the student matches the teacher's flows and the ground truth.

L = gamma L_KD + (1 - gamma) L_GT, with L_GT the multi-scale loss against the ground truth and L_KD the same distance to
the teacher's flows at the same points.
"""

from collections.abc import Sequence

from torch import Tensor

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod
from lib.losses.scene_flow import ALPHAS, multiscale_loss


def output_distillation(
    student_flows: Sequence[Tensor], teacher_flows: Sequence[Tensor], final_only: bool = False
) -> Tensor:
    """L_KD: the multi-scale distance of the student's flows to the teacher's, a scalar in metres.

    student_flows[l], teacher_flows[l]: (B, N_l, 3), metres, at the same points. No gradient reaches the teacher.
    final_only compares level 0 alone, with its alpha. Raises InputError when the levels' sizes differ.
    """
    levels = 1 if final_only else len(ALPHAS)
    student, teacher = list(student_flows[:levels]), [flow.detach() for flow in teacher_flows[:levels]]
    sizes = [[flow.shape[1] for flow in flows] for flows in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the student's levels hold {sizes[0]} points and the teacher's {sizes[1]}: their flows do not belong to "
            f"the same points; give both networks the same level sizes, or compare the finest level only (--final-only)"
        )
    return multiscale_loss(student, teacher, ALPHAS[:levels])


class OutputDistillation(DistillationMethod):
    """The loss of a student under output distillation. A term of weight 0 is neither computed nor returned.

    gamma: weight of the teacher, 0 (ground truth alone) to 1 (teacher alone). final_only: L_KD at the finest level
    only. Raises InputError for gamma outside [0, 1].
    """

    name = "output"
    weight = 0.3  # the default gamma

    def __init__(self, gamma: float, final_only: bool = False):
        super().__init__()
        if not 0.0 <= gamma <= 1.0:  # also catches NaN
            raise InputError(f"gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got {gamma:g}")
        self.gamma = gamma
        self.final_only = final_only

    @property
    def needs_teacher(self) -> bool:
        return self.gamma > 0.0

    @property
    def needs_ground_truth(self) -> bool:
        return self.gamma < 1.0

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Named scalars: "loss", the one to minimise, and its parts "loss_gt" and "loss_kd", unweighted.

        The teacher's flows may be missing at gamma 0, the targets at gamma 1.
        """
        flows = context.student.flows
        if not self.needs_teacher:
            loss_gt = multiscale_loss(flows, context.targets)
            return {"loss": loss_gt, "loss_gt": loss_gt}
        loss_kd = output_distillation(flows, context.teacher.flows, self.final_only)
        if not self.needs_ground_truth:
            return {"loss": loss_kd, "loss_kd": loss_kd}
        loss_gt = multiscale_loss(flows, context.targets)
        return {"loss": self.gamma * loss_kd + (1.0 - self.gamma) * loss_gt, "loss_gt": loss_gt, "loss_kd": loss_kd}
