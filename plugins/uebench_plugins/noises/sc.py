"""SC: synthetic, linearly separable noise, drawn per class on a coarse grid; also called LSP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, UserError, kit, parameter


class SC(Noise):
    """Add a code drawn around a corner of a hypercube that belongs to the class, repeated over square patches.

    The noise of each image is scaled to an L2 norm of `radius` times the square root of its number of values; single
    values can be larger than the radius. The official code truncates the sum to 8 bits; here it is rounded within the
    norm. Every image of a class has its own code.
    """

    name = "sc"
    paper = "Yu et al., Availability Attacks Create Shortcuts, KDD 2022"
    streams: ClassVar[bool] = True

    radius: float = parameter(
        default=6 / 255, doc="root mean square of the noise of an image", unit="pixel range [0, 1]", above=0, high=1
    )
    patch: int = parameter(default=8, doc="side of a patch", unit="pixels", low=1)

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L2 norm that the root mean square amounts to."""
        return Budget("l2", self.radius * math.sqrt(math.prod(shape)))

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Draw a code for every image, and spread it over the image."""
        shape, limit = tuple(images.shape[1:]), self.budget(images.shape[1:])
        delta = kit.blank(images, limit)
        codes = self.codes(labels, context, shape)
        for index in torch.split(torch.arange(len(labels)), 1000):
            fresh = self.spread(codes[index].to(context.device), shape)
            delta[index.to(delta.device)] = kit.to_steps(fresh, limit).to(delta.device)
        return delta

    def codes(self, labels: torch.Tensor, context: Context, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a code for every image, float32 (n, c, rows, columns)."""
        rows, columns = (math.ceil(side / self.patch) for side in shape[1:])
        count = shape[0] * rows * columns
        if 2**count < context.classes:
            raise UserError(
                f"noise {self.name}: patch={self.patch} leaves {count} values for an image of {shape[1]}x{shape[2]}, "
                f"too few corners for {context.classes} classes; take a smaller patch"
            )
        owners = labels.cpu()
        wanted = torch.bincount(owners, minlength=context.classes)
        from sklearn.datasets import make_classification  # here, since every command would wait a second for it

        drawn, classes = make_classification(
            n_samples=int(wanted.max()) * context.classes,
            n_features=count,
            n_informative=count,
            n_redundant=0,
            n_classes=context.classes,
            n_clusters_per_class=1,
            class_sep=10.0,
            flip_y=0,
            random_state=context.seed,
        )
        codes = torch.empty(len(owners), count)
        for label in range(context.classes):
            own = torch.from_numpy(drawn[classes == label]).float()
            codes[owners == label] = own[: int(wanted[label])]
        return codes.view(len(owners), rows, columns, shape[0]).permute(0, 3, 1, 2)

    def spread(self, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return codes (b, c, rows, columns) as noise (b, c, h, w) with a root mean square of the radius."""
        noise = torch.nn.functional.interpolate(codes, scale_factor=self.patch, mode="nearest")
        noise = noise[..., : shape[1], : shape[2]]
        return noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt() * self.radius


class SCLinf(SC):
    """SC cut to an L-inf ball, to stand beside the other noises; ours, not the paper's."""

    name = "sc-linf"

    radius: float = parameter(
        default=8 / 255, doc="L-inf budget of the noise", unit="pixel range [0, 1]", above=0, high=1
    )

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L-inf ball."""
        return Budget("linf", self.radius)

    def spread(self, codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the same noise, cut to the ball."""
        return super().spread(codes, shape).clamp(-self.radius, self.radius)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noises."""
    return [SC, SCLinf]
