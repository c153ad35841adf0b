"""The count of a network's arithmetic, by its parts."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one forward pass on one sample; a multiply-add counts as 2."""

    parts: dict[str, int]  # by child of the network, in its order

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def parts_of(net: nn.Module, counter: FlopCounterMode) -> dict[str, int]:
    """What torch's counter saw of each child of a network that ran under it, in FLOP."""
    counts, root = counter.get_flop_counts(), type(net).__name__
    return {name: _below(counts, f"{root}.{name}") for name, _ in net.named_children()}


def _below(counts: dict[str, dict[Any, int]], prefix: str) -> int:
    """FLOP of one child of the network: of itself, or of its outermost members that were called."""
    inside = [name for name in counts if f"{name}.".startswith(f"{prefix}.")]
    outermost = [name for name in inside if not any(name.startswith(f"{other}.") for other in inside)]
    return sum(sum(counts[name].values()) for name in outermost)
