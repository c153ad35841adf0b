"""Recipes: optimizers, schedules of the learning rate, and the clipping of gradients.

A schedule is a function of the recipe and the step alone, so a resumed run goes on with the rate it would have had.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How to train. An epoch is one pass over the training samples.

    lr: the first learning rate. one-cycle starts at lr and peaks at 10 lr; milestones warm up to lr.
    """

    steps: int
    batch_size: int  # over all processes
    lr: float
    seed: int
    optimizer: str = "adam"
    schedule: str = "step"
    weight_decay: float = 0.0
    lr_step: int = 1  # step: epochs between two changes
    lr_gamma: float = 0.5  # step: factor of a change
    lr_min: float = 0.0  # step: the rate never falls below
    lr_rise: float = 0.4  # one-cycle: part of the steps in which the rate rises
    warm_up: int = 0  # milestones: steps in which the rate rises from lr / 1000
    clip_norm: float = 0.0  # largest norm of all gradients together; 0: not clipped
    clip_value: float = 0.0  # largest absolute value of an element; 0: not clipped
    eval_every: int = 1  # epochs
    save_every: int = 0  # steps; 0: at evaluations only
    patience: int = 0  # evaluations without a new best before training ends; 0: never
    workers: int = 0
    amp: str = "off"


class Rate(NamedTuple):
    """The learning rate of a step, and Adam's beta1 (SGD's momentum) where the schedule sets it."""

    lr: float
    momentum: float | None = None


def step_schedule(recipe: Recipe, step: int, epoch: int) -> Rate:
    """lr * lr_gamma ** (epoch // lr_step), never below lr_min."""
    return Rate(max(recipe.lr * recipe.lr_gamma ** (epoch // recipe.lr_step), recipe.lr_min))


def one_cycle(recipe: Recipe, step: int, epoch: int) -> Rate:
    """By cosines from lr to 10 lr in the first part ``lr_rise`` of the steps, then down to lr / 10,000.

    The momentum goes the other way, 0.95 -> 0.85 -> 0.95 (Smith & Topin 2019, as published with SECOND).
    """
    peak, turn = 10 * recipe.lr, recipe.lr_rise * recipe.steps
    if step < turn:
        return Rate(_cosine(recipe.lr, peak, step / turn), _cosine(0.95, 0.85, step / turn))
    done = (step - turn) / max(recipe.steps - turn, 1)
    return Rate(_cosine(peak, 1e-4 * recipe.lr, done), _cosine(0.85, 0.95, done))


def milestones(recipe: Recipe, step: int, epoch: int) -> Rate:
    """lr, divided by 10 after each of 1/2, 2/3 and 5/6 of the steps. It starts with a linear warm-up from lr / 1000."""
    passed = sum(6 * step >= part * recipe.steps for part in (3, 4, 5))
    warm = min(step / recipe.warm_up, 1.0) if recipe.warm_up else 1.0
    return Rate(recipe.lr * 0.1**passed * (warm + (1 - warm) / 1000))


def _cosine(start: float, end: float, done: float) -> float:
    """From start to end along half a period of a cosine; done from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[Recipe, int, int], Rate]] = {
    "step": step_schedule,
    "one-cycle": one_cycle,
    "milestones": milestones,
}


def learning_rate(recipe: Recipe, step: int, epoch: int) -> float:
    """The learning rate of the step that follows ``step`` finished ones; epoch: whole passes within them."""
    return SCHEDULES[recipe.schedule](recipe, step, epoch).lr


def _sgd(parameters: Iterable[nn.Parameter], **options: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.9, **options)


def _adamw(parameters: Iterable[nn.Parameter], **options: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, betas=(0.9, 0.99), **options)


# weight_decay: for adam and sgd an L2 penalty in the loss, for adamw a decay of the weights themselves.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the recipe for these parameters."""
    return OPTIMIZERS[recipe.optimizer](parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, epoch: int) -> None:
    """Gives the optimizer the learning rate of the step, and the momentum where the schedule has one."""
    rate = SCHEDULES[recipe.schedule](recipe, step, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate.lr
        if rate.momentum is not None and "betas" in group:
            group["betas"] = (rate.momentum, group["betas"][1])
        elif rate.momentum is not None:
            group["momentum"] = rate.momentum


def clip_gradients(recipe: Recipe, parameters: list[nn.Parameter]) -> Tensor:
    """Clips the gradients as the recipe says; returns their norm before that, a scalar."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if recipe.clip_value:
        torch.nn.utils.clip_grad_value_(parameters, recipe.clip_value)
    if recipe.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
    return norm
