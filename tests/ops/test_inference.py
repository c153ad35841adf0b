"""What the CPU path does outside of autograd: the same numbers in fewer passes, also after weights have changed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import ops
from lib.ops import reference
from lib.ops.cpu.product import multiply, pack_matrix
from models.scene_flow.pointconv import PointConv, PointConvDown, SharedMLP


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


def product(x: torch.Tensor, packed: np.ndarray, columns: int) -> torch.Tensor:
    out = torch.full((len(x) + 2, columns), 7, dtype=x.dtype)
    multiply(x.numpy(), 0, packed, out.numpy(), 1, len(x))
    assert (out[[0, -1]] == 7).all()
    return out[1:-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows, inner, columns",
    [(1, 1, 1), (7, 3, 5), (8, 16, 16), (9, 7, 17), (20, 33, 32), (23, 5, 48), (64, 100, 35), (3, 4, 129), (0, 4, 4)],
)
def test_products_of_every_size_stay_within_their_rows(dtype, rows, inner, columns):
    torch.manual_seed(0)
    x, matrix = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    torch.testing.assert_close(product(x, pack_matrix(matrix), columns), x @ matrix.T)


def test_a_product_lets_what_is_not_finite_through():
    x, matrix = torch.ones(9, 4), torch.ones(20, 4)
    x[2, 1], x[8, 0], matrix[18, 3] = torch.nan, torch.inf, torch.nan
    torch.testing.assert_close(product(x, pack_matrix(matrix), 20), x @ matrix.T, equal_nan=True)


def test_the_kept_matrix_of_a_frozen_layer_follows_every_change_of_its_weights():
    torch.manual_seed(0)
    x, layer = torch.randn(40, 6), torch.nn.Linear(6, 4)
    index = torch.randint(0, 40, (1, 40, 9))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def check(constant: bool):
        layer.requires_grad_(not constant)
        with torch.no_grad():
            packed = pack_matrix(layer.weight)
            torch.testing.assert_close(product(x, packed, 4), x @ layer.weight.T)
            assert (pack_matrix(layer.weight) is packed) == constant
            embedded = ops.flow_embedding(x[None], x[None], index, layer.weight, layer.bias)
            expected = reference.flow_embedding(x[None], x[None], index, layer.weight, layer.bias)
            torch.testing.assert_close(embedded, expected)

    for constant in (False, True):
        check(constant)
        layer.requires_grad_(True)
        layer(x).square().sum().backward()
        optimizer.step()
        check(constant)
        layer.load_state_dict(torch.nn.Linear(6, 4).state_dict())
        check(constant)
        with torch.no_grad():
            layer.weight.mul_(2)
        check(constant)
    layer.double()
    x = x.double()
    check(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_maps_of_coordinates_are_added_alike_in_and_out_of_autograd(dtype):
    torch.manual_seed(0)
    values, points = torch.randn(2, 50, 7, dtype=dtype), torch.randn(2, 50, 3, dtype=dtype)
    layer = torch.nn.Linear(3, 7).to(dtype)
    with_gradient = ops.add_linear(values, points, layer.weight, layer.bias)
    torch.testing.assert_close(with_gradient, values + layer(points))
    with torch.inference_mode():
        torch.testing.assert_close(ops.add_linear(values, points, layer.weight, layer.bias), with_gradient)
        strided = ops.add_linear(values[:, ::2], points[:, ::2], layer.weight, layer.bias)
        torch.testing.assert_close(strided, with_gradient[:, ::2])
        assert ops.add_linear(values[:, :0], points[:, :0], layer.weight, layer.bias).shape == (2, 0, 7)
    inputs = [t.double().requires_grad_() for t in (values[:1, :3], points[:1, :3], layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(ops.add_linear, inputs)


def test_torch_compile_goes_round_the_compiled_loops():
    torch.manual_seed(0)
    layer, xyz, features = PointConv(5, 6).eval(), torch.randn(1, 40, 3), torch.randn(1, 40, 5)

    def call(xyz: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        index = ops.knn(xyz, xyz, 4)
        weights = ops.inverse_distance_weights(xyz, xyz, index)
        return ops.weighted_sum(layer(ops.gather(xyz, index) - xyz[:, :, None], features, index), index, weights)

    for freeze in (False, True):
        layer.requires_grad_(not freeze)
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(call, backend="eager")(xyz, features), call(xyz, features))


class SmallNetwork(torch.nn.Module):
    """Every operation of a scene flow network, once: a flow (B, N, 3) from two clouds (B, N, 3) in metres."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = SharedMLP(3, 8), PointConv(8, 16)
        self.mix, self.head = torch.nn.Linear(16, 16), torch.nn.Linear(24, 3)

    def forward(self, xyz1: torch.Tensor, xyz2: torch.Tensor) -> torch.Tensor:
        index = ops.furthest_point_sample(xyz1, xyz1.shape[1] // 2)
        coarse = ops.gather(xyz1, index)  # (B, N / 2, 3)
        own, other, back = ops.knn_each((coarse, xyz1, 9), (coarse, xyz2, 4), (xyz1, coarse, 3))
        features1, features2 = self.stem(xyz1), self.stem(xyz2)  # (B, N, 8)
        conv = self.conv(ops.neighbour_offsets(coarse, xyz1, own), features1, own)  # (B, N / 2, 16)
        support = ops.join(features2, features2)  # (B, N, 16)
        embedded = ops.flow_embedding(conv, support, other, self.mix.weight, self.mix.bias)  # (B, N / 2, 16)
        weights = ops.inverse_distance_weights(xyz1, coarse, back)
        return self.head(ops.append_weighted_sum(features1, embedded, back, weights))


def test_torch_compile_takes_further_pairs_of_one_shape_as_they_are():
    """The graphs end at the compiled loops, but none is made again for other clouds."""
    torch.manual_seed(0)
    net, graphs = SmallNetwork().eval(), []
    torch.compiler.reset()
    compiled = torch.compile(net, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    made = []
    for _ in range(3):
        xyz = torch.rand(1, 128, 3) * 10
        pair = xyz, xyz + 0.1 * torch.randn(1, 128, 3)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*pair), net(*pair), rtol=1e-4, atol=1e-4)
        made.append(len(graphs))
    assert made[0] > 0 and made == made[:1] * 3
    with torch.no_grad(), pytest.raises(ops.InputError, match="NaN"):
        compiled(xyz * float("nan"), xyz)
    compiled(*pair).sum().backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net(*pair).sum().backward()
    torch.testing.assert_close(gradients, [parameter.grad for parameter in net.parameters()], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("neighbours", [3, 5])
@pytest.mark.parametrize("slope", [1.0, 0.1])
def test_weighted_sums_are_appended_alike_in_and_out_of_autograd(dtype, neighbours, slope):
    torch.manual_seed(0)
    features, values = torch.randn(2, 700, 7, dtype=dtype), torch.randn(2, 40, 9, dtype=dtype, requires_grad=True)
    index, weights = torch.randint(40, (2, 700, neighbours)), torch.rand(2, 700, neighbours, dtype=dtype)
    with_gradient = ops.append_weighted_sum(features, values, index, weights, slope)
    with ops.use_backend("reference"):
        total = F.leaky_relu(ops.weighted_sum(values, index, weights), slope)
    torch.testing.assert_close(with_gradient, torch.cat([features, total], -1))
    with torch.inference_mode():
        torch.testing.assert_close(ops.append_weighted_sum(features, values, index, weights, slope), with_gradient)
        some = features[:, ::2], values[..., ::2], index[:, ::2], weights[:, ::2]
        expected = torch.cat([some[0], total[:, ::2, ::2]], -1)
        torch.testing.assert_close(ops.append_weighted_sum(*some, slope), expected)
        none = features[:, :0], values, index[:, :0], weights[:, :0]
        assert ops.append_weighted_sum(*none, slope).shape == (2, 0, 16)


@pytest.mark.parametrize("differentiated", [False, True])
def test_an_appended_weighted_sum_refuses_what_does_not_go_together(differentiated):
    features, values, weights = torch.ones(1, 8, 2), torch.ones(1, 4, 3), torch.ones(1, 8, 3)
    index = torch.zeros(1, 8, 3, dtype=torch.int64)
    with torch.set_grad_enabled(differentiated):
        for wrong in (
            (features[:, :7], values, index, weights),
            (features[0], values, index, weights),
            (features, values[0], index, weights),
            (features, values, index, weights[:, :, :2]),
            (features, values, index + 4, weights),
            (features, values, index.int(), weights),
            (features, values.double(), index, weights),
        ):
            with pytest.raises(ops.InputError, match="^(append_)?weighted_sum: "):
                ops.append_weighted_sum(*wrong)
        if not differentiated:
            with pytest.raises(ops.InputError, match="^append_weighted_sum: features .* is torch.float64 but values"):
                ops.append_weighted_sum(features.double(), values, index, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_joined_alike_in_and_out_of_autograd(dtype):
    torch.manual_seed(0)
    parts = [torch.randn(2, 700, width, dtype=dtype, requires_grad=True) for width in (7, 1, 20)]
    expected = torch.cat(parts, -1)
    with_gradient = ops.join(*parts)
    assert with_gradient.requires_grad and torch.equal(with_gradient, expected)
    with torch.inference_mode():
        assert torch.equal(ops.join(*parts), expected)
        assert torch.equal(ops.join(*(part[:, ::2] for part in parts)), expected[:, ::2])
        assert torch.equal(ops.join(parts[0]), parts[0])
        assert ops.join(*(part[:, :0] for part in parts)).shape == (2, 0, 28)
        assert torch.equal(ops.join(parts[0], parts[1].float()), torch.cat([parts[0], parts[1].float()], -1))
    for wrong in ((), (parts[0], parts[1][:, :5]), (parts[0][0], parts[1][0])):
        with pytest.raises(ops.InputError, match="^join: .* must be "):
            ops.join(*wrong)
    with pytest.raises(ops.InputError, match="^join: features 0 .* is on cpu but features 1 "):
        ops.join(parts[0], parts[1].to("meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_mlp_agrees_with_its_layers_in_and_out_of_autograd(dtype):
    torch.manual_seed(0)
    x, widths, slopes = torch.randn(3, 50, 7, dtype=dtype), (7, 40, 16, 3), (0.1, 0.1, 1.0)
    linears = [torch.nn.Linear(*pair).to(dtype) for pair in pairwise(widths)]
    layers = [(linear.weight, linear.bias, slope) for linear, slope in zip(linears, slopes, strict=True)]
    expected = [x]
    for linear, slope in zip(linears, slopes, strict=True):
        expected.append(F.leaky_relu(linear(expected[-1]), slope))
    with_gradient = ops.mlp(x, *layers)
    assert with_gradient[-1].requires_grad
    torch.testing.assert_close(with_gradient, expected[1:])
    with torch.inference_mode():
        torch.testing.assert_close(ops.mlp(x, *layers), expected[1:])
        torch.testing.assert_close(ops.mlp(x[:, ::2], *layers), [values[:, ::2] for values in expected[1:]])
        assert [tuple(out.shape) for out in ops.mlp(x[:, :0], *layers)] == [(3, 0, width) for width in widths[1:]]
    assert ops.mlp(x) == []
    with pytest.raises(ops.InputError, match=r"^linear: x \(3, 50, 40\) must be \(..., C\), weight \(3, 16\)"):
        ops.mlp(x, layers[0], layers[2])


@pytest.mark.parametrize("layer", [PointConv(5, 6), PointConvDown(5, 6)], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pointconv_layer_in_one_go_agrees_with_its_parts(layer, dtype):
    torch.manual_seed(0)
    layer = layer.to(dtype).eval()
    if hasattr(layer, "norm"):
        for value in (layer.norm.running_mean, layer.norm.running_var, layer.norm.weight, layer.norm.bias):
            value.data.uniform_(0.5, 2)
    xyz, features = torch.randn(2, 700, 3, dtype=dtype), torch.randn(2, 700, 5, dtype=dtype)  # more than one piece
    index = torch.randint(700, (2, 300, 4))
    offset = ops.gather(xyz, index) - xyz[:, :300, None]
    with ops.use_backend("reference"):
        expected = layer(offset, features, index).detach()
    in_parts = layer(offset, features, index)
    assert in_parts.requires_grad
    torch.testing.assert_close(in_parts, expected)
    for freeze in (False, True):
        layer.requires_grad_(not freeze)
        with torch.inference_mode():
            torch.testing.assert_close(layer(offset, features, index), expected)
            torch.testing.assert_close(layer(offset[:, :0], features, index[:, :0]), expected[:, :0])
    layer.requires_grad_(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_behind_a_pointconv_agree_in_and_out_of_autograd(dtype):
    torch.manual_seed(0)
    layer, behind = PointConv(5, 6).to(dtype).eval(), SharedMLP(6, 9, 4).to(dtype)
    xyz, features = torch.randn(2, 700, 3, dtype=dtype), torch.randn(2, 700, 5, dtype=dtype)
    index = torch.randint(700, (2, 300, 4))
    given = ops.neighbour_offsets(xyz[:, :300], xyz, index), features, index
    expected = layer.followed_by(behind.layers(), *given)
    assert expected[-1].requires_grad and [out.shape[-1] for out in expected] == [6, 9, 4]
    torch.testing.assert_close(expected[-1], behind(layer(*given)))
    with torch.inference_mode():
        torch.testing.assert_close(layer.followed_by(behind.layers(), *given), expected)


def test_a_pointconv_layer_refuses_shapes_that_do_not_go_together():
    xyz, index, bias = torch.zeros(1, 8, 3), torch.zeros(1, 8, 2, dtype=torch.int64), torch.ones(5)
    matrix, offset = torch.zeros(5, 96), torch.zeros(1, 8, 2, 3)
    layers = PointConv(3, 5).weightnet.layers()
    with torch.no_grad():
        assert [out.shape for out in ops.pointconv_layer(offset, xyz, index, layers, matrix, bias, 0.1)] == [(1, 8, 5)]
        for wrong in (
            (xyz, xyz, index, layers, matrix, bias),
            (offset, xyz, index, layers, matrix[:, :95], bias),
            (offset, xyz, index, layers, matrix, bias[:4]),
            (offset, xyz.double(), index, layers, matrix, bias),
            (offset, xyz, index.int(), layers, matrix, bias),
        ):
            with pytest.raises(ops.InputError, match="^pointconv_layer: "):
                ops.pointconv_layer(*wrong, 0.1)
        for norm in ((bias,) * 3, (bias[:1],) * 4, (bias, bias, bias[:4], bias)):
            with pytest.raises(ops.InputError, match="^pointconv_layer: .* four \\(D\\) or none$"):
                ops.pointconv_layer(offset, xyz, index, layers, matrix, bias, 0.1, norm, 1e-5)
        with pytest.raises(ops.InputError, match=r"^pointconv_layer: x \(1, 8, 5\) must be .*, weight \(4, 6\)"):
            behind = torch.zeros(4, 6), torch.zeros(4), 1.0
            ops.pointconv_layer(offset, xyz, index, layers, matrix, bias, 0.1, then=[behind])
