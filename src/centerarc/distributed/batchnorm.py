"""Batch normalization over the images of all processes, on any device."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SyncNormalize(torch.autograd.Function):
    """y = weight (x - mean) / sqrt(var + eps) + bias with mean and var over all ranks.

    Shapes, with N_r images on rank r, C channels and L positions: x and y (N_r, C, L...); weight,
    bias, mean and var (C,). M = sum over r of N_r L.

    forward: one all-gather of (count, mean, sum of squared deviations) a rank, 2 C + 1 numbers,
        combined by Chan et al. 1979; sums of squares would cancel in float32.
    backward, with xh = (x - mean) / sqrt(var + eps): one all-reduce of the C sums of dy and of
        dy xh; dx = weight / sqrt(var + eps) (dy - sum(dy) / M - xh sum(dy xh) / M). The gradients
        of weight and bias stay local sums: DDP adds them up as any other gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide = x.to(dtype)
        dims, shape = _layout(x)
        count = x.numel() // x.shape[1]
        local = wide.new_zeros(2 * x.shape[1] + 1)
        if count:
            local_mean = wide.mean(dims)
            local[0] = count
            local[1:].view(2, -1)[0] = local_mean
            local[1:].view(2, -1)[1] = (wide - local_mean.view(shape)).square().sum(dims)
        ranks = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, local)
        table = torch.stack(ranks)
        counts, means, squares = table[:, :1], *table[:, 1:].view(len(ranks), 2, -1).unbind(1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (squares + counts * (means - mean).square()).sum(0) / total
        inverse = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse, total)
        y = (wide - mean.view(shape)) * inverse.view(shape)
        if weight is not None and bias is not None:  # affine: there are both or neither
            y = y * weight.to(dtype).view(shape) + bias.to(dtype).view(shape)
        ctx.mark_non_differentiable(mean, var, total)
        return y.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, total = ctx.saved_tensors
        dims, shape = _layout(x)
        dy = grads[0].to(mean.dtype)
        normalized = (x.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)
        sums = torch.stack([dy.sum(dims), (dy * normalized).sum(dims)])
        # This rank's share, taken before the sums become those of all ranks.
        weight_grad = bias_grad = None
        if weight is not None:
            bias_grad, weight_grad = sums.to(weight.dtype, copy=True)
        dist.all_reduce(sums)
        sums /= total
        dx = dy - sums[0].view(shape) - normalized * sums[1].view(shape)
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        return (dx * scale.view(shape)).to(x.dtype), weight_grad, bias_grad, None


def _layout(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that are averaged over, and the shape of one number a channel."""
    return [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)


class SyncBatchNorm(_BatchNorm):
    """Batch normalization whose statistics are those of the batches of all ranks together.

    In training it gives what `torch.nn.BatchNorm*` gives for the concatenated batch, outputs,
    gradients and running statistics, also where ranks hold different numbers of images; it takes
    the same arguments. In eval mode, or without a process group, it is plain batch normalization.
    torch.nn.SyncBatchNorm does the same on CUDA and refuses the CPU.

    Source:
        Ioffe and Szegedy 2015; statistics over devices as in Peng et al. 2018 (MegDet).
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"input must be (N, {self.num_features}, ...), got {tuple(input.shape)}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Normalizes `input` (N, C, ...); the same shape and dtype come back."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, var, total = _SyncNormalize.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps
        )
        if self.track_running_stats:
            self._track(mean, var, total)
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = self.momentum
        if rate is None:
            rate = 1.0 / float(self.num_batches_tracked)
        unbiased = var * (total / (total - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every batch normalization in a module by `SyncBatchNorm`, in place.

    The parameters and buffers are the same objects afterwards, so names in a state dict and
    optimizers stay valid. Returns the module, or its replacement if it is itself a batch norm.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        new = SyncBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(module, name))
        new.train(module.training)
        return new
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child))
    return module
