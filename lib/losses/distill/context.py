"""What a distillation method sees of a training step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lib.errors import InputError
from lib.features import Feature, Levels, Outputs

NO_LEVELS = "compares predictions of several levels, and this task has one prediction only"


@dataclass(kw_only=True)
class DistillationContext:
    """One training step: what the networks gave for one batch, and the task's own losses.

    A method reads only what it asked for. ``teacher`` and ``peer`` are there when it needs them, ``truth`` when it
    needs the ground truth, a feature when it is among the method's ``features``, logits likewise.

    student, teacher: their outputs. peer: those of a network that trains along with the student, with gradient.
    truth: the ground truth at the student's levels, where the task predicts level by level.
    task_loss: the task's loss of a network's outputs against the ground truth; the sum of its parts is the loss.
    distance: of (student, teacher), by which ``output`` distils; the sum of its parts is the distance.
    progress: the part of the training that is done, from 0 to 1.
    """

    student: Outputs
    teacher: Outputs | None = None
    peer: Outputs | None = None
    truth: Levels | None = None
    task_loss: Callable[[Outputs], dict[str, Tensor]]
    distance: Callable[[Outputs, Outputs], dict[str, Tensor]]
    progress: float = 1.0

    def pair(self, name: str) -> tuple[Feature, Feature]:
        """Feature ``name`` of the student and of the teacher, the teacher's without gradient.

        Raises InputError when their sites are not one and the same object: equal counts would not be enough.
        """
        student, teacher = self.student.features[name], self.teacher.features[name]
        if student.sites is not teacher.sites:
            raise InputError(
                f"feature {name}: the student and the teacher do not stand on the same points; give both networks the "
                f"same level sizes"
            )
        return student, teacher.detached()


def levels_of(outputs: Outputs, method: str) -> Levels:
    """The predictions of a network by level. Raises InputError, in the name of the method, where it has none."""
    if outputs.levels is None:
        raise InputError(f"{method} {NO_LEVELS}")
    return outputs.levels
