"""Distillation methods, one file each: a module whose call returns a dict of named losses."""

from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting
from lib.losses.distill.output import OutputDistillation
from lib.losses.distill.selection import METHODS, Distillation, Selection, Term, default_options, parse_distill

__all__ = [
    "METHODS",
    "Distillation",
    "DistillationContext",
    "DistillationMethod",
    "OutputDistillation",
    "Selection",
    "Setting",
    "Term",
    "default_options",
    "parse_distill",
]
