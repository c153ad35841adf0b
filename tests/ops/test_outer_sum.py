"""The sums of outer products behind the aggregation and the weight net: every block size, nothing past the ends."""

from itertools import pairwise, product

import pytest
import torch

from lib import ops
from lib.ops import reference
from lib.ops.cpu.pointconv import aggregate_forward
from lib.ops.cpu.weight_net import weight_net_forward

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}
SIZES = [*product((1, 5), (1, 2, 9, 16), (1, 3, 8, 20)), (0, 9, 8), (3, 9, 31), (3, 4, 33)]  # queries, K, C


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_aggregation_agrees_at_every_size(dtype):
    for queries, k, channels in SIZES:
        offset, weights = torch.randn(2, queries, k, 3, dtype=dtype), torch.randn(2, queries, k, 16, dtype=dtype)
        features, index = torch.randn(2, 7, channels, dtype=dtype), torch.randint(7, (2, queries, k))
        args = offset, features, index, weights
        expected = reference.pointconv_aggregate(*args)
        torch.testing.assert_close(ops.pointconv_aggregate(*args), expected, rtol=0, atol=TOLERANCE[dtype] * k)
        turned = features.transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(ops.pointconv_aggregate(offset, turned, index, weights), ops.pointconv_aggregate(*args))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("widths", [(8, 8, 16), (1, 1, 16), (5, 17, 16), (8, 8, 15)])
def test_weight_net_agrees_at_every_size(dtype, widths):
    shapes = [shape for before, after in pairwise((3, *widths)) for shape in ((after, before), (after,))]
    layers = [torch.randn(*shape, dtype=dtype) for shape in shapes]
    for offsets in (0, 1, 15, 255, 256, 257, 600):
        points = torch.randn(offsets, 3, dtype=dtype)
        expected = reference.weight_net(points, *layers)
        torch.testing.assert_close(ops.weight_net(points, *layers), expected, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nothing_is_written_beside_the_rows_asked_for(dtype):
    out = torch.full((5, 3 + 21, 16), 7, dtype=dtype).numpy()
    index = torch.zeros(5, 4, dtype=torch.int64).numpy()
    offsets, table, kernel = (torch.randn(*s, dtype=dtype).numpy() for s in ((5, 4, 3), (1, 21), (3, 4, 16)))
    aggregate_forward(offsets, table, index, kernel, out[1:4], 1, 4)
    assert (out[[0, 4]] == 7).all() and (out[1:4] != 7).all()
    shapes = (40, 3), (8, 3), (8,), (8, 8), (8,), (16, 8), (16,)
    out = torch.full((40, 16), -7, dtype=dtype).numpy()
    weight_net_forward(*(torch.randn(*s, dtype=dtype).numpy() for s in shapes), out[2:39], 2, 39)
    assert (out[[0, 1, 39]] == -7).all() and (out[2:39] >= 0).all()


def test_a_value_that_is_not_a_number_comes_out():
    layers = [torch.ones(*s) for s in ((8, 3), (8,), (8, 8), (8,), (16, 8), (16,))]
    out = ops.weight_net(torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]]), *layers)
    assert out[0].isfinite().all() and out[1].isnan().all()
