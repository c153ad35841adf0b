"""Distillation methods, one file each: a class whose call returns a dict of named losses."""

from lib.losses.distill.output import OutputDistillation, output_distillation

METHODS = {"output": OutputDistillation}

__all__ = ["METHODS", "OutputDistillation", "output_distillation"]
