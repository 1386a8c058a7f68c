"""TAP: targeted adversarial poisoning, adversarial examples of a clean network that target the next class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch

import uebench
from uebench import Context, Images, Noise, Target, kit, parameter


class TAP(Noise):
    """Minimise the loss of x + noise for the target class y + 1, on a network trained on the clean set.

    Each step uses a new draw of the augmentation. The noise is the last iterate.

    The defaults are those of the REM code, which made the published TAP columns (REM, table 5). REM's paper prints an
    arg max; its code minimises the loss. The official TAP code corresponds to
    `restarts=8,start=gaussian,noise_step=0.05,shift=4,in_range=true,batch=512`. It starts eight times from Gaussian
    noise and keeps the start with the lowest loss over the set, which takes eight times as long. Its steps are larger,
    its views are shifted by fractions of a pixel, and every pixel is kept in [0, 1] after each step. The pixels that
    `shift` moves in from outside are black here; in the official code they have the mean colour of the set. Here the
    victim is trained by the recipe of the run; the official code trains it for 40 epochs with Nesterov momentum.
    """

    name = "tap"
    paper = "Fowl et al., Adversarial Examples Make Strong Poisons, NeurIPS 2021; settings of REM, table 5"
    streams: ClassVar[bool] = True

    victim: Target = parameter(default="resnet18", doc="network trained on the clean set, by the run's recipe")
    noise_steps: int = parameter(default=250, doc="descent steps on the noise", low=1)
    noise_step: float = parameter(default=0.008, doc="size of a descent step", unit="radius", above=0)
    restarts: int = parameter(
        default=1, doc="number of starts; the start with the lowest loss over the set is kept", low=1
    )
    start: Literal["uniform", "gaussian"] = parameter(
        default="uniform", doc="initial noise: uniform, or Gaussian with standard deviation radius, clipped to the ball"
    )
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    shift: float = parameter(
        default=0,
        doc="largest bilinear shift, with a flip of half the images; 0 uses the data set's augmentation instead",
        unit="pixels",
        low=0,
        later=True,
    )
    in_range: bool = parameter(
        default=False, doc="clip the noise after every step so that pixels stay in [0, 1]", later=True
    )

    def victims(self) -> Sequence[Target]:
        """Return the network that the noise is optimised on."""
        return (self.victim,)

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the number of passes: the descent steps on every image in every restart."""
        return {self.victim: count * self.restarts * self.noise_steps}

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Minimise the loss batch by batch, over the whole set once per restart."""
        network = context.network(self.victim, trained=True)
        targets = (labels + 1) % context.classes
        batches = torch.split(torch.arange(len(labels), device=labels.device), self.batch)
        best, trial = (kit.blank(images, self.radius) for _ in range(2))
        lowest, total = torch.tensor([torch.inf, 0.0], dtype=torch.float64)
        if kept := context.kept():
            best.copy_(kept["best"])
            trial.copy_(kept["trial"])
            lowest, total = kept["losses"]
        for step in context.steps(self.restarts * len(batches)):
            position = step % len(batches)
            x, y = images[batches[position]], targets[batches[position]]
            with kit.frozen(network):
                noise = kit.to_steps(self.descend(network, x, y, context), self.radius)
                if self.restarts > 1:
                    total = total + self.loss(network, x + noise.to(x) / 255, y).double().cpu()
            trial[batches[position].to(trial.device)] = noise.to(trial.device)
            if position == len(batches) - 1:
                if self.restarts == 1 or total < lowest:
                    lowest = total
                    best.copy_(trial)
                total = torch.zeros_like(total)
            context.keep(best=best, trial=trial, losses=torch.stack([lowest, total]))
        return best

    def descend(
        self, network: torch.nn.Module, images: torch.Tensor, target_labels: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the noise (b, c, h, w) of a batch against a frozen network: the last iterate."""
        radius, delta = self.radius, torch.empty_like(images)
        delta = delta.normal_(0, radius) if self.start == "gaussian" else delta.uniform_(-radius, radius)
        delta = delta.clamp(-radius, radius)
        for _ in range(self.noise_steps):
            delta.requires_grad_(True)
            point = (images + delta).clamp(0, 1)
            views = shift_and_flip(point, self.shift) if self.shift else context.augment(point)
            losses, view_gradient = kit.image_gradient(network, views, target_labels)
            # noise that was clipped is always in range, so rounding errors must not stop the gradient at the clamp
            (gradient,) = torch.autograd.grad(views, point if self.in_range else delta, view_gradient)
            delta = (delta.detach() - self.noise_step * radius * gradient.sign()).clamp(-radius, radius)
            if self.in_range:
                delta = (images + delta).clamp(0, 1) - images
        context.tell(losses.mean())
        return delta

    def loss(self, network: torch.nn.Module, images: torch.Tensor, target_labels: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy for the target classes."""
        return torch.nn.functional.cross_entropy(network(images.clamp(0, 1)), target_labels, reduction="sum")


def shift_and_flip(images: torch.Tensor, max_shift: float) -> torch.Tensor:
    """Shift images (b, c, h, w) by up to `max_shift` pixels per direction, fill with black, and mirror half of them.

    Shift and mirroring are drawn for each image, and the result is differentiable. Shifts by a fraction of a pixel are
    bilinear. They are computed as products of matrices, because the gradient of torch's `grid_sample`, which the
    official code calls, differs from run to run on a GPU.
    """
    count, device = len(images), images.device
    row, column = (torch.arange(size, device=device).to(images.dtype) for size in images.shape[-2:])
    down, right = (torch.rand(2, count, 1, device=device, dtype=images.dtype) * 2 - 1) * max_shift
    mirrored = torch.rand(count, 1, device=device) < 0.5
    rows, columns = row + down, torch.where(mirrored, column.flip(0), column) + right
    # shapes (b, 1, h of views, h of images) and (b, 1, w of images, w of views)
    row_weights = (1 - (rows[:, None, :, None] - row).abs()).clamp(min=0)
    column_weights = (1 - (columns[:, None, None, :] - column[:, None]).abs()).clamp(min=0)
    shifted: torch.Tensor = row_weights @ images @ column_weights
    return shifted


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [TAP]
