"""What a distillation method sees of a step: tensors of the student, of the teacher and of the pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from lib.errors import InputError
from lib.losses.scene_flow import gather_levels


@dataclass
class Prediction:
    """The output of one network at the source's points."""

    flows: Sequence[Tensor]  # levels 0..3: (B, N_l, 3), metres
    features: Mapping[str, Tensor] = field(default_factory=dict)  # "family/level" -> (B, N_l, C)


@dataclass
class DistillationContext:
    """One step. All networks see the same points: rows of a level belong together.

    A method reads only what it announced: ``teacher`` and ``peer`` are there when it needs one, ``targets`` when it
    needs the ground truth, a feature when it is among its ``features``.
    """

    student: Prediction
    teacher: Prediction | None = None
    targets: Sequence[Tensor] | None = None  # ground truth, levels 0..3: (B, N_l, 3), metres
    xyz1: Tensor | None = None  # source (B, N, 3), metres, camera frame
    indices: Sequence[Tensor | None] = ()  # (B, N_l) int64: level l's points in the level above; None at level 0
    progress: float = 1.0  # part of the training that is done, from 0
    peer: Prediction | None = None  # of the network that trains along with the student: with gradient, without features

    @cached_property
    def xyz(self) -> list[Tensor]:
        """Source points of levels 0..3: (B, N_l, 3), metres, camera frame."""
        return gather_levels(self.xyz1, self.indices)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """Feature ``name`` of student (B, N_l, C_S) and teacher (B, N_l, C_T), the teacher's without gradient.

        Raises InputError when the two do not belong to the same points.
        """
        student, teacher = self.student.features[name], self.teacher.features[name].detach()
        if student.shape[:2] != teacher.shape[:2]:
            raise InputError(
                f"feature {name}: the student has {student.shape[1]} points and the teacher {teacher.shape[1]}, which "
                f"are not the same points; give both networks the same level sizes"
            )
        return student, teacher

    def bring_down(self, values: Tensor, fine: int, coarse: int) -> Tensor:
        """The rows of ``values`` (B, N_fine, C) that level ``coarse`` kept: (B, N_coarse, C)."""
        return gather_levels(values, [None, *self.indices[fine + 1 : coarse + 1]])[-1]
