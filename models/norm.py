"""Batch normalisation whose statistics can be those of all processes together, on a CPU as on a GPU.

torch's own synchronised version refuses tensors in CPU memory, and trainings on several CPU processes must equal those
on one. So all networks of this project take their normalisation from here.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.errors import InputError


class _Synchronised(nn.Module):
    """What both normalisations share: the part that looks at the other processes."""

    synchronised = False

    def asks_others(self) -> bool:
        """True when the statistics of this call are to come from all processes."""
        return self.synchronised and self.training and dist.is_initialized() and dist.get_world_size() > 1

    def over_processes(self, rows: Tensor) -> Tensor:
        """rows (R, C) of this process, normalised by the statistics of the rows of all processes."""
        dtype = rows.dtype
        rows = rows.float() if dtype in (torch.bfloat16, torch.float16) else rows
        count = _AllReduceSum.apply(rows.new_full((1,), float(len(rows))))
        mean = _AllReduceSum.apply(rows.sum(0)) / count
        variance = _AllReduceSum.apply((rows - mean).square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)  # running variances are unbiased
        normalised = (rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normalised.to(dtype)


class BatchNorm(_Synchronised, nn.BatchNorm1d):
    """Batch normalisation of points (B, N, C) or rows (P, C), over all positions of the batch."""

    def forward(self, features: Tensor) -> Tensor:
        rows = features.flatten(0, -2)  # (B, N, C) -> (B N, C)
        normalised = self.over_processes(rows) if self.asks_others() else super().forward(rows)
        return normalised.view(features.shape)

    def after_linear(self, weight: Tensor, rows: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """This normalisation and the linear layer without bias before it as one layer: matrix (D, C), bias (D).

        weight (D, C) of the linear layer. rows (R, C) of its input at the positions that are not all zeros; positions:
        how many there are with the others. Zeros pass a linear layer as zeros, so the statistics of its output follow
        from mean and covariance of the rows alone. These are taken in float64. No gradient reaches the rows.
        While training the running statistics are brought up to date. Raises InputError where there is no position then.
        """
        if self.training:
            mean, variance = self._moments_after(weight, rows.detach(), positions)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()  # (D,)
        return weight * scale.unsqueeze(1), self.bias - mean * scale

    def _moments_after(self, weight: Tensor, rows: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (D,) of the layer's output over the positions of all processes."""
        rows = rows.double()
        count = rows.new_full((1,), float(positions))
        total = rows.sum(0)  # (C,)
        if self.asks_others():
            dist.all_reduce(count)
            dist.all_reduce(total)
        if count < 2:
            raise InputError("a training batch holds no point in the network's range: give it clouds that do")
        mean = total / count
        # The zeros are as far from the mean as the mean is long; each process adds those of its own positions.
        centred = rows - mean
        scatter = centred.T @ centred + (positions - len(rows)) * torch.outer(mean, mean)  # (C, C)
        if self.asks_others():
            dist.all_reduce(scatter)
        matrix = weight.double()
        mean = matrix @ mean  # (C,) -> (D,)
        variance = ((matrix @ (scatter / count)) * matrix).sum(1)  # (D,): the diagonal of W cov W^T
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)).to(weight.dtype), self.momentum)
        return mean, variance


class BatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """Batch normalisation of maps (B, C, H, W), over batch and cells."""

    def forward(self, maps: Tensor) -> Tensor:
        if not self.asks_others():
            return super().forward(maps)
        last = maps.movedim(1, 3)  # (B, C, H, W) -> (B, H, W, C)
        rows = self.over_processes(last.flatten(0, 2))  # (B H W, C)
        return rows.view(last.shape).movedim(3, 1)


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx, values):
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def synchronise_batch_norm(net: nn.Module) -> None:
    """From now on the batch normalisations of ``net`` use statistics over all processes while training."""
    for module in net.modules():
        if isinstance(module, _Synchronised):
            module.synchronised = True


def buffers_stay_equal(net: nn.Module) -> bool:
    """True when only synchronised normalisations keep buffers: then training leaves them equal in all processes."""
    return all(isinstance(module, _Synchronised) or not list(module.buffers(recurse=False)) for module in net.modules())
