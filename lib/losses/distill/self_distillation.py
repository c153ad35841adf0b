"""Self-distillation (Be Your Own Teacher, Zhang et al., ICCV 2019) for flow levels: the finest teaches the coarser.

The adaptation to scene flow is ours. Needs no teacher network.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Levels
from lib.losses.distill.context import DistillationContext, levels_of
from lib.losses.distill.method import DistillationMethod, Setting
from lib.losses.scene_flow import multiscale_loss

AMOUNT = 0.3  # a: part of the coarser levels' loss that the finest flow takes over
RAMP = 0.1  # part of the training over which a grows from 0
FEATURE_WEIGHT = 0.03
FEATURES = "predictor"
FEATURE_LEVELS = (1, 2)


def self_flow_loss(levels: Levels) -> Tensor:
    """sum over l >= 1 of alpha_l E(f_l, t_l), in the unit of the predictions.

    t_l: the finest prediction at level l's points, without gradient. alpha_l: the levels' weights.
    """
    finest = levels.values[0].detach()
    taught = [sites.bring_down(finest, levels.sites[0]) for sites in levels.sites[1:]]
    return multiscale_loss(levels.values[1:], taught, levels.weights[1:])


def self_feature_loss(adapted: Sequence[Tensor], finest: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean squared norm of (adapted - finest): a scalar.

    adapted[l] (B, N_l, C): the level's own features after its adapter; finest[l]: the finest level's at the same
    points, which get no gradient.
    """
    terms = [(a - f.detach()).square().sum(2).mean() for a, f in zip(adapted, finest, strict=True)]
    return torch.stack(terms).sum()


def ramped(amount: float, progress: float) -> float:
    """``amount`` after the first tenth of the training, growing from 0 before."""
    return amount * min(progress / RAMP, 1.0)


class SelfDistillation(DistillationMethod):
    """What turns the ground truth's loss into that of self-distillation, to be added to it:

    a sum_{l >= 1} alpha_l [E(f_l, t_l) - E(f_l, gt_l)] + feature_weight sum_{l = 1, 2} mean ||A_l(G_l) - G_0 at l||^2,

    so that with it the coarser levels learn (1 - a) from the truth and a from the finest flow. G: predictor features,
    A_l: learned 1x1 layers.
    """

    name = "self"
    layouts = ("points",)
    needs_teacher = False
    needs_levels = True
    needs_ground_truth = True

    def __init__(self, setting: Setting, amount: float = AMOUNT, feature_weight: float = FEATURE_WEIGHT):
        self.check_levels(setting)
        names = self.served_at(FEATURES, replace(setting, teacher=None))
        if len(names) <= max(FEATURE_LEVELS):
            raise InputError(f"self needs the features {FEATURES} of at least 3 levels, the student has {len(names)}")
        super().__init__((names[0], *(names[level] for level in FEATURE_LEVELS)))
        self.amount, self.feature_weight = amount, feature_weight
        self.ground_truth_share = amount
        finest = setting.student[names[0]].width
        self.adapters = nn.ModuleList(nn.Linear(setting.student[name].width, finest) for name in self.features[1:])

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        levels, amount = levels_of(context.student, self.name), ramped(self.amount, context.progress)
        finest, *coarser = (context.student.features[name] for name in self.features)
        taught = [finest.at(feature) for feature in coarser]
        adapted = [adapt(feature.values) for adapt, feature in zip(self.adapters, coarser, strict=True)]
        flow = self_flow_loss(levels)
        feature = self_feature_loss(adapted, taught)
        truth = multiscale_loss(levels.values[1:], context.truth.values[1:], levels.weights[1:])
        total = amount * (flow - truth) + self.feature_weight * feature
        return {"self": total, "self_flow": flow, "self_feature": feature}
