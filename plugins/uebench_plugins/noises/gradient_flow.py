"""Train an infinitely wide network on a block of images, and compute the gradient of its loss for these images.

All tensors are float64: the eigenvalues of a block span many orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from uebench_plugins.noises.neural_tangent import Kernel

ENTRIES = 2**22  # values in the largest intermediate tensor of a batch; autograd keeps about twenty of these


class Flow:
    """An infinitely wide network, trained on a block by gradient flow on the squared error for a given time."""

    def __init__(
        self, kernel: Kernel, images: torch.Tensor, targets: torch.Tensor, time: float, regulariser: float
    ) -> None:
        """Train on a block: images float64 (m, c, h, w) and one-hot targets (m, classes).

        The squared error is averaged over m and the classes, which sets the rate of the flow. `regulariser` times the
        mean diagonal of the tangent matrix is added to its diagonal.
        """
        self.kernel, self.images, self.regulariser = kernel, images, regulariser
        self.inputs = kernel.inputs(images)
        self.rows = max(1, ENTRIES // (len(images) * self.inputs[:, :, 0, 0].numel()))
        self.rate = time / targets.numel()
        matrix = torch.cat([kernel(part, self.inputs) for part in torch.split(self.inputs, self.rows, 2)])
        matrix.diagonal().add_(regulariser * matrix.diagonal().mean())
        values, self.vectors = torch.linalg.eigh(matrix)
        self.values = values * self.rate
        self.projected_targets = self.vectors.T @ targets
        self.weights = self.rate * self.vectors @ (_decay(self.values)[:, None] * self.projected_targets)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's outputs (b, classes) for images (b, c, h, w), at most `rows` of them at a time."""
        outputs: torch.Tensor = self.kernel(self.kernel.inputs(images), self.inputs) @ self.weights
        return outputs

    def image_gradient(
        self, validation: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient (m, c, h, w) of the summed cross-entropy of the outputs, and the sum.

        `validation` gives images float64 (b, c, h, w) and labels (b,), at most `rows` of them at a time.
        """
        inputs, loss = self.inputs.detach().requires_grad_(True), self.weights.new_zeros(())
        gradient, weight_gradient = torch.zeros_like(inputs), torch.zeros_like(self.weights)
        for images, labels in validation:
            theta = self.kernel(self.kernel.inputs(images), inputs)
            outputs = theta.detach() @ self.weights
            loss += torch.nn.functional.cross_entropy(outputs, labels, reduction="sum")
            error = outputs.softmax(1) - torch.nn.functional.one_hot(labels, outputs.shape[1])
            weight_gradient += theta.detach().T @ error
            gradient += torch.autograd.grad(theta, inputs, error @ self.weights.T)[0]
        matrix_gradient = self._differentiate_matrix(weight_gradient)
        parts = (torch.split(self.inputs, self.rows, 2), torch.split(gradient, self.rows, 2))
        for inputs_part, gradient_part, matrix_part in zip(
            *parts, torch.split(matrix_gradient, self.rows), strict=True
        ):
            leaf = inputs_part.detach().requires_grad_(True)
            half = torch.autograd.grad(self.kernel(leaf, self.inputs), leaf, matrix_part)[0]
            gradient_part.add_(
                half, alpha=2
            )  # kernel and matrix_gradient are symmetric: each argument contributes half
        leaf = self.images.detach().requires_grad_(True)
        return torch.autograd.grad(self.kernel.inputs(leaf), leaf, gradient)[0], loss

    def _differentiate_matrix(self, weight_gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the loss for the tangent matrix, given the gradient for the weights.

        Uses divided differences of the eigenvalues. Differentiating the eigenvectors would divide by the gaps between
        eigenvalues, and these gaps are 0 for equal images.
        """
        projected = (
            (self.vectors.T @ weight_gradient)
            @ self.projected_targets.T
            * _divided_differences(self.values)
            * self.rate**2
        )
        matrix: torch.Tensor = self.vectors @ projected @ self.vectors.T
        matrix = (matrix + matrix.T) / 2
        matrix.diagonal().add_(self.regulariser * matrix.diagonal().mean())
        return matrix


def _decay(u: torch.Tensor) -> torch.Tensor:
    """Return g(u) = (1 - exp(-u)) / u, which is 1 at zero."""
    return torch.where(u == 0, 1, -torch.expm1(-u) / u)


def _divided_differences(values: torch.Tensor) -> torch.Tensor:
    """Return (g(u) - g(v)) / (u - v) for all pairs, and g'(u) where they are equal, computed without cancellation."""
    u, v = torch.maximum(values[:, None], values), torch.minimum(values[:, None], values)
    series = (u + v) / 6 - 0.5  # its truncation error is below 1e-11, as is the rounding error of the other formula
    return torch.where(u < 1e-5, series, (torch.exp(-v) * _decay(u - v) - _decay(v)) / u)
