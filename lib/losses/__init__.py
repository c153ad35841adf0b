"""Task losses: functions of tensors. ``distill/`` holds the distillation methods, one file each."""

from lib.losses.scene_flow import ALPHAS, gather_levels, multiscale_loss, output_distillation

__all__ = ["ALPHAS", "gather_levels", "multiscale_loss", "output_distillation"]
