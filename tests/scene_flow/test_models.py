"""The networks: sizes, contract, symmetries, gradients, loading."""

import pytest
import torch

from lib import ops
from lib.ops import InputError
from lib.tasks.scene_flow import SCENE_FLOW
from models import CHECKPOINT_FORMAT, build_model, count_parameters, load_model, model_record, restore_model
from models.norm import BatchNorm
from models.scene_flow.levels import level_sizes
from models.scene_flow.pointconv import WEIGHTS, PointConvDown, PointMLP
from models.scene_flow.published import from_published, is_unused

TINY = {"pyramid": (4, 6, 8, 10, 10), "context": (4, 4, 6, 6), "predictor": (12, 12, 12, 8)}


@pytest.fixture
def tiny_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("teacher", **TINY)


def published_count(net) -> int:
    """Parameters in the published counting, which includes values the forward never reads."""
    w = net.options["pyramid"]
    return count_parameters(net) + 2 * sum(w[:4]) + 12 * 2 * (8 + 8 + 16)


def test_parameter_counts():
    teacher, student = build_model("teacher"), build_model("student")
    assert count_parameters(teacher) == 7_956_876
    assert published_count(teacher) == 7_958_604
    assert published_count(student) == pytest.approx(3.72e6, rel=0.01)
    assert count_parameters(student) == 3_712_884


def test_contract(small_pair, tiny_net):
    xyz1, xyz2 = small_pair
    out = tiny_net(xyz1, xyz2, return_features=True)
    sizes = level_sizes(256)
    assert sizes == (256, 64, 16, 8, 2)
    assert [tuple(f.shape) for f in out.flows] == [(2, n, 3) for n in sizes[:4]]
    assert out.flows[0].dtype == torch.float32
    for indices in (out.indices1, out.indices2):
        assert indices[0] is None
        assert [tuple(i.shape) for i in indices[1:]] == [(2, n) for n in sizes[1:4]]
        assert all(i.max() < above for i, above in zip(indices[1:], sizes[:3], strict=True))
    w = TINY["pyramid"]
    expected = {f"pyramid{c}/{level}": (2, sizes[level], w[level]) for c in (1, 2) for level in range(5)}
    expected |= {f"embedding/{level}": (2, sizes[level], w[level]) for level in range(4)}
    expected |= {f"predictor/{level}": (2, sizes[level], 8) for level in range(4)}
    assert {name: tuple(f.shape) for name, f in out.features.items()} == expected
    assert tiny_net(xyz1, xyz2).features == {}


def test_level_sizes():
    assert level_sizes(8192) == (8192, 2048, 512, 256, 64)
    assert level_sizes(1000) == (1000, 250, 62, 31, 7)
    assert level_sizes(300, (200, 100, 50, 25)) == (300, 200, 100, 50, 25)


@pytest.mark.parametrize(("points1", "points2"), [(128, 128), (131, 200), (300, 129)])
def test_any_number_of_points(tiny_net, points1, points2):
    torch.manual_seed(1)
    out = tiny_net(torch.rand(1, points1, 3), torch.rand(1, points2, 3))
    assert out.flows[0].shape == (1, points1, 3) and out.flows[0].isfinite().all()


def test_clouds_of_equal_size_do_not_depend_on_being_batched(small_pair, tiny_net):
    """One pass for both clouds equals a pass each, which is what clouds of different sizes take."""
    xyz1, xyz2 = small_pair
    geometry = tiny_net.geometry(xyz1, xyz2)
    together = tiny_net(xyz1, xyz2, geometry=geometry).flows[0]
    geometry.both = None
    torch.testing.assert_close(tiny_net(xyz1, xyz2, geometry=geometry).flows[0], together)


def test_fast_and_reference_agree(small_pair, tiny_net):
    xyz1, xyz2 = (xyz.double() for xyz in small_pair)
    results = []
    for backend in ("fast", "reference"):
        net = restore_model(model_record(tiny_net)).double().train()
        with ops.use_backend(backend):
            out = net(xyz1, xyz2)
            sum(f.square().sum() for f in out.flows).backward()
        results.append([*out.flows, *(p.grad for p in net.parameters())])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("which", [1, 2])
def test_permuting_a_cloud_permutes_its_flow(small_pair, tiny_net, which):
    """The first point stays first, as sampling starts there; any other order gives the same network."""
    net = tiny_net.double().eval()
    clouds = [xyz.double() for xyz in small_pair]
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(255)])
    flow = net(*clouds).flows[0]
    clouds[which - 1] = clouds[which - 1][:, order]
    torch.testing.assert_close(net(*clouds).flows[0], flow[:, order] if which == 1 else flow, rtol=1e-9, atol=1e-9)


def test_a_batch_equals_its_pairs_one_by_one(small_pair, tiny_net):
    net = tiny_net.double().eval()
    xyz1, xyz2 = (xyz.double() for xyz in small_pair)
    single = torch.cat([net(xyz1[i : i + 1], xyz2[i : i + 1]).flows[0] for i in range(2)])
    torch.testing.assert_close(net(xyz1, xyz2).flows[0], single)


@pytest.mark.parametrize("name", SCENE_FLOW.networks.values())
def test_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    net = build_model(name)
    xyz1 = torch.rand(1, 512, 3) * 10
    out = net(xyz1, xyz1 + 0.1)
    out.flows[0].square().sum().backward()
    for parameter_name, parameter in net.named_parameters():
        before_norm = parameter_name.endswith("linear.bias") and "pointconvs" in parameter_name  # true gradient 0
        assert parameter.grad is not None, parameter_name
        assert before_norm or parameter.grad.abs().sum() > 0, parameter_name


def test_gradient_flows_through_warping_and_upsampling(small_pair, tiny_net):
    """The finest flow alone trains the coarsest predictor; nothing in between is detached."""
    tiny_net(*small_pair).flows[0].sum().backward()
    assert tiny_net.predictor[3].head.weight.grad.abs().sum() > 0


def test_a_shared_geometry_changes_nothing(small_pair, tiny_net):
    other = build_model("student", **TINY).eval()
    net = tiny_net.eval()
    geometry = net.geometry(*small_pair)
    for model in (net, other):
        assert torch.equal(model(*small_pair, geometry=geometry).flows[0], model(*small_pair).flows[0])


def test_a_cloud_with_many_duplicates(tiny_net):
    """Fewer distinct points than level 1 holds: the levels are then sampled one by one, as the twin does."""
    torch.manual_seed(0)
    xyz = torch.rand(1, 20, 3).repeat(1, 13, 1).double()
    net = tiny_net.double().eval()
    out = net(xyz, xyz)
    with ops.use_backend("reference"):
        expected = net(xyz, xyz)
    assert all(torch.equal(a, b) for a, b in zip(out.indices1[1:], expected.indices1[1:], strict=True))
    torch.testing.assert_close(out.flows[0], expected.flows[0])


def test_bf16_autocast(small_pair, tiny_net):
    with torch.autocast("cpu", torch.bfloat16):
        out = tiny_net(*small_pair)
    assert out.flows[0].dtype == torch.float32
    out.flows[0].sum().backward()
    torch.testing.assert_close(out.flows[0], tiny_net(*small_pair).flows[0], rtol=0.2, atol=0.05)


@pytest.mark.parametrize("training", [False, True])
def test_bf16_autocast_leaves_coordinates_in_float32(training):
    assert_autocast_leaves_coordinates("cpu", training)


def assert_autocast_leaves_coordinates(device: str, training: bool) -> None:
    """In bf16 neighbours of a point 1000 m away are all one point; their differences are what these layers see."""
    torch.manual_seed(0)
    xyz, middle = (1000 + torch.rand(2, 40, 3)).to(device), 1000.5
    stem, conv = (layer.train(training).to(device) for layer in (PointMLP(3, 8, 8), PointConvDown(8, 8)))
    index, features = torch.randint(40, (2, 30, 5)).to(device), torch.randn(2, 40, 8).to(device)
    offset = ops.gather(xyz, index)
    with torch.no_grad():
        for layer in (stem[0], conv.weightnet[0]):
            layer.bias.copy_(-middle * layer.weight.sum(1) + 0.1)
        conv.linear.weight[:, : 3 * WEIGHTS] = 0  # what remains of the coordinates is in the weights
        expected = stem(xyz), conv(offset, features, index)
        with torch.autocast(device, torch.bfloat16):
            found = stem(xyz), conv(offset, features, index)
    for ours, single in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - single).norm() < 0.01 * single.norm()
    assert len(xyz.bfloat16().unique()) == 1


def test_batch_norm_equals_torch():
    torch.manual_seed(0)
    features = torch.randn(2, 30, 5)
    ours, theirs = BatchNorm(5), torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(ours(features), theirs(features.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_records_rebuild_the_network(small_pair, tiny_net, tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"format": CHECKPOINT_FORMAT, "model": model_record(tiny_net), "training": {}}, path)
    net = load_model(path)
    assert not net.training and net.name == "teacher" and net.options == tiny_net.options
    assert not any(value.requires_grad for value in net.parameters())
    with torch.no_grad():
        assert torch.equal(net(*small_pair).flows[0], tiny_net.eval()(*small_pair).flows[0])


def test_published_states_load_strictly(published_state):
    assert sum(is_unused(name) for name in published_state) == 188
    assert len(from_published(published_state)) == len(published_state) - 188
    for change in ("drop", "add", "reshape", "drop unused"):
        state = dict(published_state)
        if change == "drop":
            del state["cross0.pos1.weight"]
        elif change == "add":
            state["level5.weight"] = torch.zeros(1)
        elif change == "drop unused":
            del state["cross0.bias1"]
        else:
            state["flow0.fc.weight"] = torch.zeros(64, 3, 1)
        with pytest.raises(InputError):
            from_published(state)


BAD_OPTIONS = [
    ({"widht": 3}, "model 'student': Widths.__init__() got an unexpected keyword argument 'widht'"),
    ({"pyramid": (16, 32)}, "network option pyramid must be 5 positive whole numbers, got (16, 32)"),
    ({"predictor": (8, 8, 8, 0)}, "network option predictor must be 4 positive whole numbers, got (8, 8, 8, 0)"),
    ({"bottleneck": 0}, "network option bottleneck must divide the pyramid's widths, got 0"),
    ({"bottleneck": 3}, "network option bottleneck must divide the pyramid's widths, got 3"),
    (
        {"sizes": (10, 20, 5, 2)},
        "level sizes must be four falling numbers >= 1 and at most the cloud's 20, got (10, 20, 5, 2)",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_wrong_options(options, message):
    with pytest.raises(InputError) as error:
        build_model("student", **options)
    assert str(error.value) == message


def test_wrong_name():
    with pytest.raises(InputError, match="unknown model 'pupil': choose one of teacher, student"):
        build_model("pupil")


BAD_CLOUDS = [
    ((1, 100, 3), (1, 100, 3), "a cloud of 100 points is too small: the four coarser levels need at least 128 points"),
    ((128, 3), (128, 3), "clouds must be (B, N, 3) and (B, M, 3), got (128, 3) and (128, 3)"),
    ((1, 128, 3), (2, 128, 3), "clouds must be (B, N, 3) and (B, M, 3), got (1, 128, 3) and (2, 128, 3)"),
    ((1, 128, 4), (1, 128, 3), "clouds must be (B, N, 3) and (B, M, 3), got (1, 128, 4) and (1, 128, 3)"),
]


@pytest.mark.parametrize(("shape1", "shape2", "message"), BAD_CLOUDS)
def test_wrong_clouds(tiny_net, shape1, shape2, message):
    with pytest.raises(InputError) as error:
        tiny_net(torch.rand(shape1), torch.rand(shape2))
    assert str(error.value) == message


def test_half_precision_coordinates_are_refused(tiny_net, small_pair):
    with pytest.raises(InputError, match="xyz1 must be float32 or float64 coordinates in metres, got torch.float16"):
        tiny_net(*(xyz.half() for xyz in small_pair))
