"""The published network's golden values, reached through the loader of published states."""

import numpy as np
import pytest
import torch

from lib import ops
from lib.losses.scene_flow import gather_levels, multiscale_loss
from models import load_model
from models.scene_flow.published import published_names
from tests.conftest import fill_published_state

RANKS = {"rank2": "", "full": "_full_rank"}  # how the weights were filled -> end of the files' names


@pytest.fixture(scope="module", params=RANKS)
def rank(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def published_file(tmp_path_factory, shared, rank):
    path = tmp_path_factory.mktemp("published") / "bi_pointflownet.pth"
    torch.save(fill_published_state(shared, rank == "full"), path)
    return path


def golden(shared, part: str, rank: str):
    with np.load(shared / f"golden/forward_{part}{RANKS[rank]}.npz") as file:
        values = dict(file)
    return values, [torch.from_numpy(values[name])[None] for name in ("pc1", "pc2", "flow")]


def dot(values: torch.Tensor) -> float:
    """sum of x_i cos(i), i = 1..n: unlike a norm it sees the order of the elements."""
    flat = values.detach().cpu().double().flatten()
    return (flat * torch.arange(1, len(flat) + 1, dtype=torch.float64).cos()).sum().item()


def check_indices(out, values) -> None:
    for cloud, indices in ((1, out.indices1), (2, out.indices2)):
        assert indices[0] is None
        for level in (1, 2, 3):
            assert np.array_equal(indices[level][0].cpu().numpy(), values[f"fps{cloud}_l{level}"])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_float64(shared, published_file, rank, device):
    values, (xyz1, xyz2, flow) = golden(shared, "eval", rank)
    xyz1, xyz2, flow = (cloud.to(device) for cloud in (xyz1, xyz2, flow))
    net = load_model(published_file, device).double()
    with torch.no_grad():
        out = net(xyz1.double(), xyz2.double())
    check_indices(out, values)
    for level in range(4):
        error = np.linalg.norm(out.flows[level][0].cpu().numpy() - values[f"pred_flow_l{level}"], axis=1)
        assert error.max() < 1e-6
    loss = multiscale_loss(out.flows, gather_levels(flow.double(), out.indices1))
    assert loss.item() == pytest.approx(values["multiscale_loss"], rel=1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_float32_on_the_fast_path(shared, published_file, rank, device):
    values, (xyz1, xyz2, _) = golden(shared, "eval", rank)
    net = load_model(published_file, device)
    with torch.no_grad():
        out = net(xyz1.to(device), xyz2.to(device))
    check_indices(out, values)
    for level in range(4):
        assert out.flows[level].dtype == torch.float32
        error = np.linalg.norm(out.flows[level][0].cpu().numpy() - values[f"pred_flow_l{level}"], axis=1)
        assert np.median(error) <= 1e-6
        assert (error > 1e-4).mean() <= 0.003


@pytest.mark.parametrize("device", DEVICES)
def test_training_step(shared, published_file, rank, device):
    values, (xyz1, xyz2, flow) = golden(shared, "train", rank)
    xyz1, xyz2, flow = (cloud.to(device) for cloud in (xyz1, xyz2, flow))
    net = load_model(published_file, device).double().train().requires_grad_(True)  # it comes frozen
    out = net(xyz1.double(), xyz2.double())
    check_indices(out, values)
    for level in range(4):
        error = np.linalg.norm(out.flows[level][0].detach().cpu().numpy() - values[f"pred_flow_l{level}"], axis=1)
        assert error.max() < 1e-6
    loss = multiscale_loss(out.flows, gather_levels(flow.double(), out.indices1))
    loss.backward()
    assert loss.item() == pytest.approx(values["multiscale_loss"], rel=1e-8)

    ours = {theirs: mine for mine, theirs in published_names().items()}
    parameters = dict(net.named_parameters())
    golden_norms = dict(zip(values["grad_names"].tolist(), values["grad_norms"].tolist(), strict=True))
    assert {ours[name] for name in golden_norms} == set(parameters)
    for name, norm in golden_norms.items():
        # A bias before a batch normalisation has true gradient 0: what stands there is rounding of about 1e-15.
        assert parameters[ours[name]].grad.norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9), name
    state = net.state_dict()
    for name, norm in zip(values["bn_names"].tolist(), values["bn_norms"].tolist(), strict=True):
        assert state[ours[name]].norm().item() == pytest.approx(norm, rel=1e-8), name
    if rank == "full":
        for name, norm, expected in zip(
            *(values[f"grad_{x}"].tolist() for x in ("names", "norms", "dots")), strict=True
        ):
            assert dot(parameters[ours[name]].grad) == pytest.approx(expected, abs=max(1e-6 * norm, 1e-9)), name
        for name, norm, expected in zip(*(values[f"bn_{x}"].tolist() for x in ("names", "norms", "dots")), strict=True):
            assert dot(state[ours[name]]) == pytest.approx(expected, abs=1e-8 * norm), name


def test_fast_and_reference_agree_in_float32(shared, published_file, rank):
    _, (xyz1, xyz2, _) = golden(shared, "eval", rank)
    net = load_model(published_file)
    flows = []
    for backend in ("fast", "reference"):
        with torch.no_grad(), ops.use_backend(backend):
            flows.append(net(xyz1[:, :2048], xyz2[:, :2048]).flows)
    for fast, slow in zip(*flows, strict=True):
        # Each is about 1e-6 m from the result in float64. With the weights of full rank the flows of these cut clouds
        # are 10 m long, and their rounding errors grow with them.
        scale = slow.norm(dim=-1).median().item() if rank == "full" else 1.0
        difference = (fast - slow).norm(dim=-1)
        assert difference.median() <= 2e-6 * scale
        assert (difference > 1e-4 * scale).float().mean() <= 0.003
