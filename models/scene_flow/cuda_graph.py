"""Inference through CUDA graphs: the whole network as one launch, replayed for every pair of the same shape."""

import torch
from torch import Tensor, nn

from lib.ops import InputError, check_finite
from models import FlowOutput
from models.scene_flow.levels import samples_differ

WARM_UP = 3  # calls before the capture: they compile kernels and let cuBLAS choose and allocate


class GraphedNetwork:
    """A network for inference that answers as ``net(xyz1, xyz2)`` does, with one launch a call.

    The graph is captured at the first call and again whenever shapes or precision change. Its outputs are overwritten
    by the next call. A pair with fewer distinct points than level 1 has samples needs another course through the
    network; such a pair runs without the graph.

    Raises InputError for a network that is not on a GPU and for coordinates that are not finite.
    """

    def __init__(self, net: nn.Module) -> None:
        device = next(net.parameters()).device
        if device.type != "cuda":
            raise InputError(f"--cuda-graph needs a GPU and the device is {device}: leave it out, or use --device cuda")
        self.net = net.eval()
        self._made_for: tuple | None = None

    @torch.no_grad()
    def __call__(self, xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
        """xyz1 (B, N, 3), xyz2 (B, M, 3), metres, on the network's GPU -> the network's output."""
        if not torch.stack([xyz1.isfinite().all(), xyz2.isfinite().all()]).all():  # waits for the GPU once, not twice
            check_finite("network", "xyz1", xyz1)
            check_finite("network", "xyz2", xyz2)
        autocast = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        wanted = xyz1.shape, xyz2.shape, xyz1.dtype, autocast
        if self._made_for != wanted:
            self._capture(xyz1, xyz2, *autocast)
            self._made_for = wanted
        self._xyz1.copy_(xyz1)
        self._xyz2.copy_(xyz2)
        self._graph.replay()
        return self._output if self._differ else self.net(xyz1, xyz2)

    def sizes_for(self, points: int) -> tuple[int, ...]:
        """Points of levels 0..4, as the network says. Raises InputError for a cloud that is too small."""
        return self.net.sizes_for(points)

    def _capture(self, xyz1: Tensor, xyz2: Tensor, autocast: bool, dtype: torch.dtype) -> None:
        self._made_for = self._graph = self._output = self._differ = None  # frees the memory of the graph before
        self._xyz1, self._xyz2 = xyz1.clone(), xyz2.clone()
        # The cache of autocast holds copies of weights that would be freed while the graph still reads them.
        with torch.autocast("cuda", dtype, enabled=autocast, cache_enabled=False):
            stream = torch.cuda.Stream(xyz1.device)
            stream.wait_stream(torch.cuda.current_stream(xyz1.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.net(self._xyz1, self._xyz2)
            torch.cuda.current_stream(xyz1.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                output = self.net(self._xyz1, self._xyz2)
                differ = samples_differ(output.indices1[1]) & samples_differ(output.indices2[1])
        self._graph, self._output, self._differ = graph, output, differ
