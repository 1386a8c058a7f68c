"""Orthogonal projection: removes the directions that a linear classifier of the images uses."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, parameter


class OrthogonalProjection(Breaker):
    """Train a linear classifier on the protected pixels, and remove the directions of its weights from every image.

    This removes noise that the images of a class share, which is linearly separable. It hardly changes noise that
    differs from image to image. The classifier sees the images in random order; the released code keeps the order of
    the set. The paper also trains with strong augmentation and CutMix; for this, use `orthogonal-projection+cutmix`.

    The released code trains on the projected values, some outside [0, 1]. Here they are clipped and rounded to 8 bits,
    like the result of every filter. On 10 000 images of CIFAR-10 this clips 2.3 % of the values (2.2 to 2.8 % over six
    draws of the classifier) and restores 4 % of what was removed, in L2; another linear classifier finds no signal in
    it. On 1 000 images it clips 42 % (39 to 45 %): with only 20 steps the weights of the classifier still contain the
    mean image, and the result is almost black (mean 0.06, before 0.47). With 3 000 to 6 000 images it clips 2 to 37 %,
    depending on the draw. `batch=64` takes more steps, and clips 2 % of 1 000 images.
    """

    name = "orthogonal-projection"
    paper = "Sandoval-Segura et al., What Can We Learn from Unlearnable Datasets?, NeurIPS 2023, section 4.3, and code"

    epochs: int = parameter(default=20, doc="epochs of the classifier; its rate falls tenfold after 1/2 and 3/4", low=1)
    lr: float = parameter(default=0.1, doc="first learning rate of the classifier", above=0)
    batch: int = parameter(default=1024, doc="batch size of the classifier", unit="images", low=1)

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the projected images, clipped to [0, 1]."""
        return remove_directions(images, self.train_classifier(images, labels)).clamp(0, 1)

    def train_classifier(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the weights (classes, c * h * w) of a linear classifier without bias, trained by gradient descent."""
        layer = torch.nn.Linear(images[0].numel(), int(labels.max()) + 1, bias=False).to(images.device)
        optimiser = torch.optim.SGD(layer.parameters(), lr=self.lr)
        milestones = [self.epochs // 2, self.epochs * 3 // 4]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones)
        for _ in range(self.epochs):
            for index in torch.split(torch.randperm(len(images), device=images.device), self.batch):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(layer(images[index].flatten(1)), labels[index]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
        return layer.weight.detach()


def remove_directions(images: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Return images (n, c, h, w) without their components along directions (k, c * h * w)."""
    basis: torch.Tensor = torch.linalg.qr(directions.T)[0]
    flat = images.flatten(1)
    return (flat - flat @ basis @ basis.T).view_as(images)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [OrthogonalProjection]
