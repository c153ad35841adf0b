"""The fused loop of the flow embedding on a CPU: every edge of its blocks and vectors."""

import pytest
import torch

from lib import ops
from lib.ops import reference

# Queries and points, neighbours, channels in and out: about the blocks of neighbours and the vectors of channels.
SIZES = [
    (13, 11, 9, 3, 16),
    (5, 7, 1, 3, 7),
    (30, 40, 32, 16, 16),
    (9, 9, 8, 32, 48),
    (9, 9, 5, 64, 64),
    (9, 40, 33, 17, 33),
    (4, 50, 17, 128, 32),
    (3, 9, 7, 15, 1),
    (0, 5, 4, 16, 16),
]


def draw(queries: int, points: int, neighbours: int, channels: int, width: int, batch: int = 2) -> tuple:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, queries, channels), (batch, points, channels), (width, channels), (width,)
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return *tensors[:2], torch.randint(0, points, (batch, queries, neighbours), generator=generator), *tensors[2:]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_every_size_equals_the_twin(sizes, dtype, error):
    query, support, index, weight, bias = draw(*sizes)
    expected = reference.flow_embedding(query, support, index, weight, bias)
    query, support, weight, bias = (t.to(dtype) for t in (query, support, weight, bias))
    differentiated = ops.flow_embedding(query.requires_grad_(), support, index, weight, bias)
    with torch.inference_mode():
        inferred = ops.flow_embedding(query, support, index, weight, bias)
    assert torch.equal(inferred, differentiated) and inferred.is_contiguous()
    torch.testing.assert_close(inferred.double(), expected, rtol=error, atol=error)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_gradients_of_every_size_equal_the_twin(sizes):
    query, support, index, weight, bias = draw(*sizes)
    results = []
    for op in (ops, reference):
        leaves = [t.clone().requires_grad_() for t in (query, support, weight, bias)]
        op.flow_embedding(*leaves[:2], index, *leaves[2:]).square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("neighbours", [1, 4, 5, 8, 11, 24])
def test_the_first_of_equal_neighbours_wins_in_every_block(neighbours):
    """From one place on all are equal and the largest; only the first of them may take the gradient."""
    for place in range(neighbours):
        support = torch.zeros(1, neighbours, 16, requires_grad=True)
        with torch.no_grad():
            support[0, place:] = 1
        index = torch.arange(neighbours).view(1, 1, -1)
        ops.flow_embedding(torch.zeros(1, 1, 16), support, index, torch.eye(16), torch.zeros(16)).sum().backward()
        assert support.grad[0].sum(1).nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("neighbours", [1, 3, 9, 16])
def test_a_nan_is_never_lost(dtype, neighbours):
    query, support, _, weight, bias = (t.to(dtype) for t in draw(1, neighbours, 1, 16, 32, batch=1))
    index = torch.arange(neighbours).view(1, 1, -1)
    for place in range(neighbours):
        damaged = support.clone()
        damaged[0, place, 3] = float("nan")
        for op in (ops, reference):
            assert op.flow_embedding(query, damaged, index, weight, bias).isnan().all()
        assert ops.flow_embedding(query.clone().requires_grad_(), damaged, index, weight, bias).isnan().all()


def test_infinite_values_come_out_as_in_the_twin():
    query, support, index, weight, bias = draw(6, 7, 9, 1, 16)  # one channel: infinities that do not meet each other
    support[:, 0], support[:, 1] = float("inf"), -float("inf")
    found = ops.flow_embedding(query, support, index, weight, bias)
    torch.testing.assert_close(found, reference.flow_embedding(query, support, index, weight, bias))
