"""SC: synthetic, linearly separable noise, drawn for each class on a coarse grid; also called LSP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, UserError, kit, parameter


class SC(Noise):
    """Add a random code, drawn near the hypercube corner of the class; each of its values fills a square patch.

    The noise of each image is scaled to an L2 norm of `radius` times the square root of its number of values, so
    single values can be larger than the radius. The official code truncates the protected image to 8 bits; here the
    noise is rounded such that it stays within the norm. Every image has a different code.
    """

    name = "sc"
    paper = "Yu et al., Availability Attacks Create Shortcuts, KDD 2022"
    streams: ClassVar[bool] = True

    radius: float = parameter(
        default=6 / 255, doc="root mean square of the noise of an image", unit="pixel range [0, 1]", above=0, high=1
    )
    patch: int = parameter(default=8, doc="side of a patch", unit="pixels", low=1)

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L2 norm that corresponds to a root mean square of `radius`."""
        return Budget("l2", self.radius * math.sqrt(math.prod(shape)))

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Draw a code for every image, and expand it to the size of the image."""
        shape, limit = tuple(images.shape[1:]), self.budget(images.shape[1:])
        delta = kit.blank(images, limit)
        codes = self.draw_codes(labels, context, shape)
        for index in torch.split(torch.arange(len(labels)), 1000):
            noise = self.expand_codes(codes[index].to(context.device), shape)
            delta[index.to(delta.device)] = kit.to_steps(noise, limit).to(delta.device)
        return delta

    def draw_codes(self, labels: torch.Tensor, context: Context, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a code for every image, float32 (n, c, rows, columns)."""
        rows, columns = (math.ceil(side / self.patch) for side in shape[1:])
        count = shape[0] * rows * columns
        if 2**count < context.classes:
            raise UserError(
                f"noise {self.name}: patch={self.patch} gives {count} values for an image of {shape[1]}x{shape[2]}, "
                f"too few corners for {context.classes} classes; choose a smaller patch"
            )
        labels = labels.cpu()
        counts = torch.bincount(labels, minlength=context.classes)
        # imported here, because a module-level import would delay every command by a second
        from sklearn.datasets import make_classification

        samples, classes = make_classification(
            n_samples=int(counts.max()) * context.classes,
            n_features=count,
            n_informative=count,
            n_redundant=0,
            n_classes=context.classes,
            n_clusters_per_class=1,
            class_sep=10.0,
            flip_y=0,
            random_state=context.seed,
        )
        codes = torch.empty(len(labels), count)
        for label in range(context.classes):
            class_codes = torch.from_numpy(samples[classes == label]).float()
            codes[labels == label] = class_codes[: int(counts[label])]
        return codes.view(len(labels), rows, columns, shape[0]).permute(0, 3, 1, 2)

    def expand_codes(self, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return codes (b, c, rows, columns) as noise (b, c, h, w) with a root mean square of the radius."""
        noise = torch.nn.functional.interpolate(codes, scale_factor=self.patch, mode="nearest")
        noise = noise[..., : shape[1], : shape[2]]
        return noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt() * self.radius


class SCLinf(SC):
    """SC clipped to an L-inf ball, for comparison with the other noises; this variant is not from the paper."""

    name = "sc-linf"

    radius: float = parameter(
        default=8 / 255, doc="L-inf budget of the noise", unit="pixel range [0, 1]", above=0, high=1
    )

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L-inf ball."""
        return Budget("linf", self.radius)

    def expand_codes(self, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the noise of SC, clipped to the ball."""
        return super().expand_codes(codes, shape).clamp(-self.radius, self.radius)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noises."""
    return [SC, SCLinf]
