"""EM: error-minimising noise, optimised on the image without augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

import uebench
from uebench import Context, Images, Noise, Recipe, Target, kit, parameter
from uebench_plugins.noises.rounds import descend, measure_error_rate, take_positive_part, take_rounds
from uebench_plugins.noises.surrogate import SurrogateNoise

GRADIENT_NORM = 5
"""Largest L2 norm of the gradient of all weights in a round; larger gradients are clipped, as in the official code."""


class EM(SurrogateNoise):
    """Minimise the surrogate's loss on x + noise, alternating with training of the surrogate.

    The loop and the step sizes follow the generator of the REM code base, which made the published EM columns. There
    the noise is made on a cropped and flipped view and later added to the whole image; here it is made on the image
    itself. The surrogate learns from augmented images. With `augment=false` it learns from images without augmentation,
    as in the official EM code. The noise then fits one position of the image, and the target's cropping and flipping
    undo the noise of a short run.

    The official code corresponds to `loop=rounds,warm_start=true,augment=false,schedule=constant,batch=512` with
    `noise_steps=20,noise_step=0.1,one_sided=true`: it drops negative noise and truncates the rest to 8 bits. A round
    has `learn` training steps of the surrogate and then a descent on every image; the order of batches continues from
    round to round. Rounds end when the surrogate classifies the protected images, or after `steps` training steps. The
    noise stays in floats, gradients are clipped to a norm of 5, and the surrogate learns from x + noise without
    clipping. The official code keeps the order of the data set; here the order is drawn once at random, because a set
    may be sorted by class. For CIFAR-100 the official code has `learn=20` and a tenth of this weight decay.

    With `loop=batches` the surrogate learns from the noise in 8 bits, as it will be released.
    """

    name = "em"
    paper = (
        "Huang et al., Unlearnable Examples: Making Personal Data Unexploitable, ICLR 2021, arXiv 2101.04898; "
        "settings of REM, table 5"
    )

    augment: bool = parameter(default=True, doc="the surrogate learns from augmented images")
    warm_start: bool = parameter(default=False, doc="start from the previous noise of the image, not from random noise")
    one_sided: bool = parameter(default=False, doc="release only the positive part of the noise")
    loop: Literal["batches", "rounds"] = parameter(
        default="batches",
        doc="batches: update the noise of each training batch; rounds: of all images, every `learn` training steps",
        later=True,
    )
    learn: int = parameter(default=10, doc="surrogate training steps in a round", unit="batches", low=1, later=True)
    stop_error: float = parameter(
        default=0.01, doc="error of the surrogate that ends the rounds", low=0, high=1, later=True
    )

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate between descent on the noise and standard training of the surrogate."""
        network = context.network(self.surrogate)
        if self.loop == "rounds":
            return self.take_rounds(images, labels, context, network)

        def minimise(x: torch.Tensor, y: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
            protected = kit.pgd(
                network,
                x,
                y,
                radius=self.radius,
                steps=self.noise_steps,
                step=self.noise_step * self.radius,
                ascend=False,
                start=x + previous if self.warm_start else None,
            )
            return protected - x

        delta = self.alternate(
            images,
            labels,
            context,
            network,
            make=minimise,
            view=lambda x, y: context.augment(x) if self.augment else x,
        )
        return delta.clamp(min=0) if self.one_sided else delta

    def take_rounds(
        self, images: Images, labels: torch.Tensor, context: Context, network: torch.nn.Module
    ) -> torch.Tensor:
        """Run the rounds of the official code; return float noise, on the device that stores the data set."""
        rounds = -(-self.steps // self.learn)
        recipe = Recipe(
            steps=rounds * self.learn, batch=self.batch, lr=self.lr, schedule=self.schedule, clip=GRADIENT_NORM
        )
        training = kit.Training(network, recipe, len(images), context.seed)
        noise = kit.blank(images, self.radius).float()
        if kept := context.kept():
            training.resume(kept)
            noise.copy_(kept["noise"])
        generator = torch.Generator().manual_seed(context.seed)
        batches = torch.split(torch.randperm(len(images), generator=generator).to(labels.device), self.batch)
        # Batch norm cannot train on one image.
        training_batches = [index for index in batches if len(index) > 1] or batches

        def load_noise(index: torch.Tensor) -> torch.Tensor:
            return noise[index.to(noise.device)].to(labels.device)

        def protect(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images[index] + load_noise(index), labels[index]

        def train(step: int) -> None:
            x, y = protect(training_batches[step % len(training_batches)])
            loss, _ = training.step(step, context.augment(x) if self.augment else x, y)
            context.tell(loss)

        def update_noise(index: torch.Tensor) -> None:
            x, start = images[index], load_noise(index)
            if not self.warm_start:
                start = torch.empty_like(x).uniform_(-self.radius, self.radius)
            step = self.noise_step * self.radius
            updated = descend(network, x, labels[index], start, radius=self.radius, steps=self.noise_steps, step=step)
            noise[index.to(noise.device)] = updated.to(noise)

        take_rounds(
            context,
            rounds=rounds,
            learn=self.learn,
            batches=batches,
            train=train,
            descend=update_noise,
            error=lambda: measure_error_rate(network, map(protect, batches)),
            stop_error=self.stop_error,
            keep=lambda: context.keep(training.state, noise=noise),
        )
        return take_positive_part(noise) if self.one_sided else noise

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the network passes of `loop=batches`; the number of rounds is not known in advance."""
        return super().passes(count) if self.loop == "batches" else {}


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [EM]
