"""Tangent kernels of infinitely wide networks in closed form, those of the released code of NTGA (ICML 2021).

NTK parameterisation, weight variance 1.76, bias variance 0.18.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHT, BIAS = 1.76, 0.18
WINDOW = 5  # side of a convolution
FLAT = 1e-13  # squared sine of the angle that rounding alone puts between two equal patches


class Kernel(Protocol):
    """A tangent kernel in two halves, so that what concerns one image alone is computed once."""

    def inputs(self, images: Tensor) -> Tensor:
        """Return what the first layer sees of images (n, c, h, w), scaled: (rows, columns, n, d), by position."""

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) of the inputs of n and of m images, differentiable, on the diagonal too."""


class FNN:
    """Five times dense and erf without a read-out layer, as the released code has it."""

    def inputs(self, images: Tensor) -> Tensor:
        """Return all pixels of (n, c, h, w) at one position: (1, 1, n, c * h * w)."""
        return images.flatten(1)[None, None] / math.sqrt(images[0].numel())

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) by the recursion over layers."""
        k, kx, kz = (covariance[0, 0] for covariance in _covariances(x, z))
        theta = torch.zeros_like(k)
        for _ in range(5):
            k, kx, kz = (WEIGHT * covariance + BIAS for covariance in (k, kx, kz))
            theta = k + WEIGHT * theta
            k, kx, kz, gate = _bent(k, kx, kz)
            theta = theta * gate
        return theta


class CNN:
    """Two convolutions with ReLU, then three dense layers with nothing between them.

    The flattening before the dense layers leaves only covariances of equal positions to count.
    """

    def __init__(self, stride: int = 2) -> None:
        self.stride = stride

    def inputs(self, images: Tensor) -> Tensor:
        """Return the patches of (n, c, h, w): (rows, columns, n, 25 * c)."""
        (high, top, bottom), (wide, left, right) = (same(side, self.stride) for side in images.shape[2:])
        patches = F.unfold(F.pad(images, (left, right, top, bottom)), WINDOW, stride=self.stride)
        patches = patches.permute(2, 0, 1).contiguous() / math.sqrt(patches.shape[1])
        return patches.view(high, wide, *patches.shape[1:])

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) by the recursion over layers."""
        windows = [_windows(side, self.stride).to(x) for side in x.shape[:2]]
        k, kx, kz = (WEIGHT * covariance + BIAS for covariance in _covariances(x, z))
        theta = k
        k, kx, kz, gate = _rectified(k, kx, kz)
        theta = theta * gate
        k, kx, kz = (WEIGHT * _averaged(covariance, *windows) + BIAS for covariance in (k, kx, kz))
        theta = k + WEIGHT * _averaged(theta, *windows)
        k, _, _, gate = _rectified(k, kx, kz)
        k, theta = k.mean((0, 1)), (theta * gate).mean((0, 1))
        for _ in range(3):
            k = WEIGHT * k + BIAS
            theta = k + WEIGHT * theta
        return theta


def same(side: int, stride: int) -> tuple[int, int, int]:
    """Return the outputs along a side and the padding before and after it: TensorFlow's SAME, the odd one after."""
    count = -(-side // stride)
    total = max((count - 1) * stride + WINDOW - side, 0)
    return count, total // 2, total - total // 2


def _windows(side: int, stride: int) -> Tensor:
    """Return the matrix (outputs, side) that averages over windows, what lies outside counting as zero."""
    count, before, _ = same(side, stride)
    offset = torch.arange(side) - (torch.arange(count) * stride - before)[:, None]
    return ((offset >= 0) & (offset < WINDOW)).double() / WINDOW


def _averaged(one: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average (rows, columns, ...) over windows."""
    across: Tensor = columns @ torch.tensordot(rows, one, 1).flatten(2)
    return across.view(*across.shape[:2], *one.shape[2:])


def _covariances(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the products of inputs at each position, (rows, columns, n, m), and those with themselves, one less."""
    return x @ z.mT, (x * x).sum(3), (z * z).sum(3)


def _rectified(k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the covariances behind a ReLU, and the expected product of its derivatives."""
    moment, gate = _ArcCosine.apply(k, kx, kz)
    return moment, kx / 2, kz / 2, gate


def _bent(k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the covariances behind an erf, and the expected product of its derivatives."""
    moment, gate = _ArcSine.apply(k, kx, kz)
    own, other = ((2 * variance / (1 + 2 * variance)).asin() * (2 / math.pi) for variance in (kx, kz))
    return moment, own, other, gate


# Both slopes are by hand: for speed and memory, and since an arc cosine has none where it is zero. In both, the slope
# of the moment in k is the gate (Price's theorem).


class _ArcSine(torch.autograd.Function):
    """Expected products of erf and of its derivatives; below the singularity of the arc sine everywhere."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor]:
        area = torch.outer(1 + 2 * kx, 1 + 2 * kz)
        gate = (4 / math.pi) * (area - 4 * k.square()).rsqrt()
        ctx.save_for_backward(k, kx, kz, gate)
        return (2 * k * area.rsqrt()).asin() * (2 / math.pi), gate

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, kx, kz, gate = ctx.saved_tensors
        moment, bend = slopes[0] * gate, slopes[1] * gate**3 * (math.pi / 4) ** 2
        own, (x, z) = moment * k, (1 + 2 * kx, 1 + 2 * kz)
        return moment + 4 * k * bend, -own.sum(1) / x - bend @ z, -own.sum(0) / z - x @ bend


class _ArcCosine(torch.autograd.Function):
    """Expected products of ReLU and of its derivatives, the arc-cosine kernels of order one and zero.

    The slope in the angle is set to zero where the angle is. On the diagonal it stays zero whatever the image does, so
    this is right; between equal patches of two images it is the mean of the slopes on either side.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor]:
        area = kx[..., :, None] * kz[..., None, :]
        square = area - k.square()
        sine = torch.where(square > FLAT * area, square, 0).sqrt()  # times the norms
        gate = 0.5 - torch.atan2(sine, k) / (2 * math.pi)
        ctx.save_for_backward(k, kx, kz, sine, gate)
        return sine / (2 * math.pi) + k * gate, gate

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, kx, kz, sine, gate = ctx.saved_tensors
        moment, angle = slopes[0], torch.where(sine > 0, slopes[1] / sine, 0) / (2 * math.pi)
        own = (moment * sine / (2 * math.pi) - angle * k) / 2
        return moment * gate + angle, own.sum(-1) / kx, own.sum(-2) / kz
