"""Distillation of logits (Hinton et al. 2015): the student's softened class probabilities follow the teacher's.

L_CK of M3KD (Cheon et al. 2024, equation 3) is this loss on a detector's class scores of the same proposals.
"""

import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Option, Setting

TEMPERATURE = 4.0


def logits_loss(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """t^2 times the mean over rows of KL(softmax(Z_T / t) || softmax(Z_S / t)): a scalar, in nats.

    student, teacher: logits Z (R, K), a row for each proposal, anchor or sample, a column for each class; t the
    temperature. No gradient reaches the teacher. The loss of no rows is 0.
    """
    target = F.log_softmax(teacher.detach() / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), target, reduction="sum", log_target=True)
    return temperature**2 * divergence / max(len(student), 1)


def as_two_classes(logits: Tensor) -> Tensor:
    """Logits z of K separate yes-or-no questions, (R, K) -> (R K, 2), as pairs (z, 0).

    Their softmax is (sigmoid(z), 1 - sigmoid(z)).
    """
    yes = logits.reshape(-1, 1)  # (R, K) -> (R K, 1)
    return F.pad(yes, (0, 1))  # (R K, 2), the second column 0


class LogitsDistillation(DistillationMethod):
    """The divergence of the student's class probabilities from the teacher's, for logits of the same rows.

    The place is a name of logits, not of features. temperature: t; larger values give the small probabilities more
    say. sigmoid True is for heads that answer yes or no for each class: each class is then a row of two classes, and
    the loss the mean over rows and classes (our choice). scaled False leaves out the factor t^2.
    """

    name = "logits"
    place = "logits"
    options = {"temperature": Option(TEMPERATURE), "sigmoid": Option(False), "scaled": Option(True)}

    def __init__(
        self,
        setting: Setting,
        place: str = place,
        temperature: float = TEMPERATURE,
        sigmoid: bool = False,
        scaled: bool = True,
    ):
        if not setting.logits:
            raise InputError("logits compares class scores, and the networks of this task give none")
        if place not in setting.logits:
            raise InputError(f"logits@{place}: the networks have no such logits: choose of {', '.join(setting.logits)}")
        if setting.logits[place] < 2 and not sigmoid:
            raise InputError(f"logits@{place} has one class, whose probability is always 1: add +sigmoid=on")
        super().__init__(logits=(place,))
        self.temperature, self.sigmoid, self.scaled = temperature, sigmoid, scaled

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        (name,) = self.logits
        student, teacher = context.student.logits[name], context.teacher.logits[name]
        if student.shape != teacher.shape:
            raise InputError(
                f"logits {name}: the student's are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}: "
                f"give both networks the same proposals and classes"
            )
        if self.sigmoid:
            student, teacher = as_two_classes(student), as_two_classes(teacher)
        loss = logits_loss(student, teacher, self.temperature)
        return {"logits": loss if self.scaled else loss / self.temperature**2}
