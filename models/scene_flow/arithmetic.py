"""How much arithmetic a network does on a pair of clouds: its matrix products, the point operations' included."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.ops import use_backend

COUNTED_POINTS = 1024  # every layer sees its full number of neighbours: from here on the counts grow with the points


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one forward pass on one pair; a multiply-add counts as 2."""

    parts: dict[str, int]  # by child of the network, in its order

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@torch.no_grad()
def count_flops(net: nn.Module, num_points: int) -> Flops:
    """Counts the matrix products of ``net`` on two clouds of ``num_points``.

    torch's counter watches one forward pass of the reference operations, where every such product is torch's own. It is
    made on at most 1024 points and scaled up: level sizes and products grow with the points, to the rounding of the
    sizes to whole points. A network with sizes of its own (its option ``sizes``) is counted as large as it is.

    Not counted, as no processor's rate for matrix products speaks of them: element-wise operations, maxima,
    normalisation, sampling, the search for neighbours, and interpolation (together a few percent). The count depends
    on widths and sizes alone, so clouds are drawn at random, from a generator of their own. The network is left as it
    was. Raises InputError when a cloud of so many points is too small for the network.
    """
    counted = num_points if net.options["sizes"] else min(num_points, COUNTED_POINTS)
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(0)
    pair = [torch.rand(1, counted, 3, generator=generator).to(device) for _ in range(2)]
    training = net.training
    try:
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            net.eval()(*pair)
    finally:
        net.train(training)
    counts, root = counter.get_flop_counts(), type(net).__name__
    parts = {name: _below(counts, f"{root}.{name}") for name, _ in net.named_children()}
    return Flops({name: round(flops * num_points / counted) for name, flops in parts.items()})


def _below(counts: dict[str, dict[Any, int]], prefix: str) -> int:
    """FLOP of one child of the network: of itself, or of its outermost members that were called."""
    inside = [name for name in counts if f"{name}.".startswith(f"{prefix}.")]
    outermost = [name for name in inside if not any(name.startswith(f"{other}.") for other in inside)]
    return sum(sum(counts[name].values()) for name in outermost)
