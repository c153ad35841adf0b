"""How much arithmetic a network does on a pair of clouds: its matrix products, the point operations' included."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.ops import use_backend
from models.flops import Flops, parts_of

COUNTED_POINTS = 1024  # every layer sees its full number of neighbours: from here on the counts grow with the points


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
    return Flops({name: round(flops * num_points / counted) for name, flops in parts_of(net, counter).items()})
