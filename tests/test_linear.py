"""Linear layers outside of autograd: the same numbers, also after the weights have changed."""

import pytest
import torch
import torch.nn.functional as F

from lib import ops
from lib.ops.product import pack, times


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("slope", [1.0, 0.1])
def test_linear_agrees_with_torch_in_and_out_of_autograd(dtype, slope):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 50, 7, dtype=dtype), torch.nn.Linear(7, 5).to(dtype)
    with_gradient = ops.linear(x, layer.weight, layer.bias, slope)
    assert with_gradient.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            expected = F.leaky_relu(F.linear(x, layer.weight, layer.bias), slope)
            torch.testing.assert_close(ops.linear(x, layer.weight, layer.bias, slope), expected)
            torch.testing.assert_close(ops.linear(x[:, ::2], layer.weight, layer.bias, slope), expected[:, ::2])
    torch.testing.assert_close(with_gradient, expected)


def test_a_kept_matrix_follows_every_change_of_the_weights():
    torch.manual_seed(0)
    x, layer = torch.randn(40, 6), torch.nn.Linear(6, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def check():
        with torch.no_grad():
            torch.testing.assert_close(times(x, pack(layer.weight, keep=True)), x @ layer.weight.T)

    check()
    layer(x).square().sum().backward()
    optimizer.step()
    check()
    layer.load_state_dict(torch.nn.Linear(6, 4).state_dict())
    check()
    layer.double()
    x = x.double()
    check()
