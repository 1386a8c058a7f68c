"""Class-wise EM: one error-minimising noise per class."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

import uebench
from uebench import Context, Images, Noise, Recipe, Target, kit, parameter
from uebench_plugins.noises.rounds import descend, measure_error_rate, take_positive_part, take_rounds


class EMClasswise(Noise):
    """Minimise the surrogate's loss on x + class noise for a part of the images; apply this noise to all images.

    A round has a few training steps of the surrogate, then one descent step on every image of the part. Each descent
    step starts from the noise of the class. The mean of the results over the images of a class in a batch becomes the
    noise of the class. Rounds end when the surrogate classifies the protected part. In the official code the surrogate
    learns from images without augmentation; `augment=true` changes this.

    If x + noise leaves [0, 1], the surrogate here learns from clipped images, and the mean includes the full noise of
    the class for this image. In the official code (`saturation=official`) the surrogate learns from x + noise without
    clipping, and the mean includes only the visible part of the noise; so the noise of a class with many black or white
    pixels moves towards 0. The official code also adds only the positive part of the noise, truncated to 8 bits
    (`one_sided=true`).
    """

    name = "em-classwise"
    paper = (
        "Huang et al., Unlearnable Examples: Making Personal Data Unexploitable, ICLR 2021, section 4; released code"
    )
    streams: ClassVar[bool] = True

    surrogate: Target = parameter(default="resnet18", doc="surrogate network")
    augment: bool = parameter(default=False, doc="the surrogate learns from augmented images")
    part: float = parameter(default=0.2, doc="share of the images of each class that is used", above=0, high=1)
    learn: int = parameter(default=10, doc="surrogate training steps in a round", unit="batches", low=1)
    noise_step: float = parameter(default=0.1, doc="size of a descent step", unit="radius", above=0)
    stop_error: float = parameter(default=0.01, doc="error of the surrogate that ends the rounds", low=0, high=1)
    rounds: int = parameter(default=100, doc="largest number of rounds", low=1)
    batch: int = parameter(default=512, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="surrogate's learning rate", above=0)
    saturation: Literal["clipped", "official"] = parameter(
        default="clipped",
        doc="how x + noise outside [0, 1] is treated",
        later=True,
    )
    one_sided: bool = parameter(
        default=False, doc="release only the positive part of the noise, truncated to 8 bits", later=True
    )

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Run rounds of training and descent steps until the surrogate's error is low enough."""
        network = context.network(self.surrogate)
        chosen = self.choose_images(labels, context)
        batches = torch.split(chosen, self.batch)
        recipe = Recipe(steps=self.rounds * self.learn, batch=self.batch, lr=self.lr, schedule="constant", clip=5)
        training = kit.Training(network, recipe, len(chosen), context.seed)
        patterns = torch.zeros(context.classes, *images.shape[1:], device=labels.device)
        if kept := context.kept():
            training.resume(kept)
            patterns.copy_(kept["patterns"])

        def protect(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = labels[index]
            x = images[index] + patterns[y]
            return x if self.saturation == "official" else x.clamp(0, 1), y

        def train(step: int) -> None:
            x, y = protect(chosen[training.batch(step)])
            loss, _ = training.step(step, context.augment(x) if self.augment else x, y)
            context.tell(loss)

        take_rounds(
            context,
            rounds=self.rounds,
            learn=self.learn,
            batches=batches,
            train=train,
            descend=lambda index: self.descend(network, images[index], labels[index], patterns),
            error=lambda: measure_error_rate(network, map(protect, batches)),
            stop_error=self.stop_error,
            keep=lambda: context.keep(training.state, patterns=patterns),
        )
        if self.one_sided:
            patterns = take_positive_part(patterns)
        delta, steps = kit.blank(images, self.radius), kit.to_steps(patterns, self.radius)
        for index in torch.split(torch.arange(len(labels), device=labels.device), self.batch):
            delta[index.to(delta.device)] = steps[labels[index]].to(delta.device)
        return delta

    def choose_images(self, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the indices of the used images: the same share of every class, at least one, in random order."""
        generator = torch.Generator().manual_seed(context.seed)
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        rank = torch.empty_like(order)
        for label in range(context.classes):
            in_class = labels[order] == label
            rank[in_class] = torch.arange(int(in_class.sum()), device=labels.device)
        counts = torch.bincount(labels, minlength=context.classes)
        used_counts = (self.part * counts).round().long().clamp(min=1)
        return order[rank < used_counts[labels[order]]]

    def descend(self, network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, patterns: torch.Tensor) -> None:
        """Update, in place, the noise of every class that occurs in a batch."""
        step = self.noise_step * self.radius
        if self.saturation == "official":
            updated = descend(network, x, y, patterns[y], radius=self.radius, steps=1, step=step)
        else:
            with kit.frozen(network):
                _, gradient = kit.image_gradient(network, (x + patterns[y]).clamp(0, 1), y)
            updated = (patterns[y] - step * gradient.sign()).clamp(-self.radius, self.radius)
        one_hot_labels = torch.nn.functional.one_hot(y, len(patterns)).to(updated)
        counts = one_hot_labels.sum(0)
        present = counts > 0
        means = torch.einsum("bk,bchw->kchw", one_hot_labels, updated)[present] / counts[present].view(-1, 1, 1, 1)
        patterns[present] = means.clamp(-self.radius, self.radius)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [EMClasswise]
