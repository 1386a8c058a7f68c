"""Compute tangent kernels of infinitely wide networks in closed form, as the released code of NTGA (ICML 2021) does.

The networks use the NTK parameterisation with weight variance 1.76 and bias variance 0.18.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHT, BIAS = 1.76, 0.18
WINDOW = 5  # side of a convolution's kernel, in pixels
MAX_ROUNDING = 1e-13  # squared sines up to this value count as 0: they are rounding errors between two equal patches


class Kernel(Protocol):
    """A tangent kernel in two parts: the part that depends on a single image is computed only once per image."""

    def inputs(self, images: Tensor) -> Tensor:
        """Return the scaled inputs of the first layer by position, (rows, columns, n, d), for images (n, c, h, w)."""

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) for the inputs of n and of m images; it is differentiable, also on the diagonal."""


class FNN:
    """Five dense layers, each followed by erf, without a read-out layer, as in the released code."""

    def inputs(self, images: Tensor) -> Tensor:
        """Return all pixels of images (n, c, h, w) as a single position: (1, 1, n, c * h * w)."""
        return images.flatten(1)[None, None] / math.sqrt(images[0].numel())

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) by the recursion over layers."""
        k, kx, kz = (covariance[0, 0] for covariance in _compute_covariances(x, z))
        theta = torch.zeros_like(k)
        for _ in range(5):
            k, kx, kz = (WEIGHT * covariance + BIAS for covariance in (k, kx, kz))
            theta = k + WEIGHT * theta
            k, kx, kz, derivative = _apply_erf(k, kx, kz)
            theta = theta * derivative
        return theta


class CNN:
    """Two convolutions, each followed by ReLU, then three dense layers without activations between them.

    The images are flattened before the dense layers, so only covariances between equal positions matter.
    """

    def __init__(self, stride: int = 2) -> None:
        self.stride = stride

    def inputs(self, images: Tensor) -> Tensor:
        """Return the scaled patches of images (n, c, h, w): (rows, columns, n, 25 * c)."""
        (rows, top, bottom), (columns, left, right) = (
            compute_same_padding(side, self.stride) for side in images.shape[2:]
        )
        patches = F.unfold(F.pad(images, (left, right, top, bottom)), WINDOW, stride=self.stride)
        patches = patches.permute(2, 0, 1).contiguous() / math.sqrt(patches.shape[1])
        return patches.view(rows, columns, *patches.shape[1:])

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel (n, m) by the recursion over layers."""
        windows = [_build_window_matrix(side, self.stride).to(x) for side in x.shape[:2]]
        k, kx, kz = (WEIGHT * covariance + BIAS for covariance in _compute_covariances(x, z))
        theta = k
        k, kx, kz, derivative = _apply_relu(k, kx, kz)
        theta = theta * derivative
        k, kx, kz = (WEIGHT * _average_windows(covariance, *windows) + BIAS for covariance in (k, kx, kz))
        theta = k + WEIGHT * _average_windows(theta, *windows)
        k, _, _, derivative = _apply_relu(k, kx, kz)
        k, theta = k.mean((0, 1)), (theta * derivative).mean((0, 1))
        for _ in range(3):
            k = WEIGHT * k + BIAS
            theta = k + WEIGHT * theta
        return theta


def compute_same_padding(side: int, stride: int) -> tuple[int, int, int]:
    """Return the number of outputs along a side, and the padding before and after it, in pixels.

    This is TensorFlow's SAME padding: if the total is odd, the extra pixel comes after the side.
    """
    count = -(-side // stride)
    total = max((count - 1) * stride + WINDOW - side, 0)
    return count, total // 2, total - total // 2


def _build_window_matrix(side: int, stride: int) -> Tensor:
    """Return the matrix (outputs, side) that averages over windows; positions outside the image count as zero."""
    count, before, _ = compute_same_padding(side, stride)
    offset = torch.arange(side) - (torch.arange(count) * stride - before)[:, None]
    return ((offset >= 0) & (offset < WINDOW)).double() / WINDOW


def _average_windows(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average values (rows, columns, ...) over windows."""
    averages: Tensor = columns @ torch.tensordot(rows, values, 1).flatten(2)
    return averages.view(*averages.shape[:2], *values.shape[2:])


def _compute_covariances(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inner products of the inputs at each position, and the squared norms of both inputs.

    Shapes (rows, columns, n, m), (rows, columns, n), (rows, columns, m).
    """
    return x @ z.mT, (x * x).sum(3), (z * z).sum(3)


def _apply_relu(k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the covariances after a ReLU, and the expected product of its derivatives."""
    moment, derivative = _ArcCosine.apply(k, kx, kz)
    return moment, kx / 2, kz / 2, derivative


def _apply_erf(k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the covariances after an erf, and the expected product of its derivatives."""
    moment, derivative = _ArcSine.apply(k, kx, kz)
    moment_x, moment_z = ((2 * variance / (1 + 2 * variance)).asin() * (2 / math.pi) for variance in (kx, kz))
    return moment, moment_x, moment_z, derivative


# Both gradients are written by hand, for speed and memory, and because the arc cosine has no derivative where it is
# zero. In both classes, the second output is the derivative of the first with respect to k (Price's theorem).


class _ArcSine(torch.autograd.Function):
    """Expected products of erf and of its derivatives; the arc sine never reaches its singularity."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor]:
        area = torch.outer(1 + 2 * kx, 1 + 2 * kz)
        derivative = (4 / math.pi) * (area - 4 * k.square()).rsqrt()
        ctx.save_for_backward(k, kx, kz, derivative)
        return (2 * k * area.rsqrt()).asin() * (2 / math.pi), derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, kx, kz, derivative = ctx.saved_tensors
        from_moment, from_derivative = gradients[0] * derivative, gradients[1] * derivative**3 * (math.pi / 4) ** 2
        variance_gradient, (x, z) = from_moment * k, (1 + 2 * kx, 1 + 2 * kz)
        return (
            from_moment + 4 * k * from_derivative,
            -variance_gradient.sum(1) / x - from_derivative @ z,
            -variance_gradient.sum(0) / z - x @ from_derivative,
        )


class _ArcCosine(torch.autograd.Function):
    """Expected products of ReLU and of its derivatives, the arc-cosine kernels of order one and zero.

    The derivative with respect to the angle is set to zero where the angle is zero. On the diagonal the angle is zero
    for every image, so this value is exact. Between equal patches of two images, it is the mean of the one-sided
    derivatives.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, kx: Tensor, kz: Tensor) -> tuple[Tensor, Tensor]:
        area = kx[..., :, None] * kz[..., None, :]
        square = area - k.square()
        sine = torch.where(square > MAX_ROUNDING * area, square, 0).sqrt()  # sine of the angle, times both norms
        derivative = 0.5 - torch.atan2(sine, k) / (2 * math.pi)
        ctx.save_for_backward(k, kx, kz, sine, derivative)
        return sine / (2 * math.pi) + k * derivative, derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, kx, kz, sine, derivative = ctx.saved_tensors
        from_moment, from_angle = gradients[0], torch.where(sine > 0, gradients[1] / sine, 0) / (2 * math.pi)
        variance_gradient = (from_moment * sine / (2 * math.pi) - from_angle * k) / 2
        return from_moment * derivative + from_angle, variance_gradient.sum(-1) / kx, variance_gradient.sum(-2) / kz
