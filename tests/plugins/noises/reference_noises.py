"""Shared by the tests of noises: a context on the host, a small network, a few images, and a reference for EM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import Target, kit
from uebench.compute.seeds import derive_seed, seed_generators
from uebench.compute.train import build_network

RADIUS, ADV_RADIUS = 0.1, 0.05


class HostContext:
    """A context on the host with the augmentation of a 6x6 set; it records the requested network and the last loss."""

    device, classes, seed = torch.device("cpu"), 4, 7
    names = tuple(map(str, range(100)))

    def __init__(self, network: nn.Module | None = None) -> None:
        self.given_network = network

    def augment(self, images: Tensor) -> Tensor:
        return kit.crop_and_flip(images, 1)

    def network(self, target: Target | str, trained: bool = False) -> nn.Module:
        assert isinstance(target, Target)
        self.requested = target, trained
        return self.given_network or build_network(
            target, (3, 6, 6), self.classes, "fp32", self.device, derive_seed(self.seed, "surrogate")
        )

    def steps(self, count: int) -> Iterator[int]:
        for step in range(count):
            seed_generators(step)
            yield step

    def tell(self, loss: Tensor) -> None:
        self.last_loss = float(loss)

    def keep(self, *more: Callable[[], Mapping[str, Tensor]], **state: Tensor) -> None:
        pass

    def kept(self) -> Mapping[str, Tensor]:
        return {}


def surrogate() -> nn.Module:
    """Return a small network in double precision whose batch statistics are not the initial ones."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(180, 4)
    ).double()
    net(torch.rand(32, 3, 6, 6, dtype=torch.float64))
    return net


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    """Return images (n, 3, 6, 6) with a black and a white row, and labels of four classes."""
    torch.manual_seed(2)
    images = torch.rand(count, 3, 6, 6, dtype=torch.float64)
    images[:, :, 0], images[:, :, 5] = 0.0, 1.0  # saturated pixels, where the clamp stops the gradient
    return images, torch.arange(count) % 4


def views(images: Tensor) -> tuple[Tensor, Tensor]:
    """Crop and flip images at random; return the views and the linear maps (b, 36, 36), without the code under test."""
    count = len(images)
    top, left = torch.randint(0, 3, (2, count, 1))
    mirrored = torch.rand(count, 1) < 0.5
    matrix = torch.zeros(count, 36, 36, dtype=images.dtype)
    for image in range(count):
        for row in range(6):
            for column in range(6):
                source = row + int(top[image]) - 1, (5 - column if mirrored[image] else column) + int(left[image]) - 1
                if 0 <= source[0] < 6 and 0 <= source[1] < 6:
                    matrix[image, row * 6 + column, source[0] * 6 + source[1]] = 1
    return torch.einsum("bij,bcj->bci", matrix, images.flatten(2)).view_as(images), matrix


def noise_by_rounds(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    order: list[int],
    *,
    batch: int,
    learn: int,
    noise_steps: int,
    step: float,
    rate: float,
    stop_error: float,
    rounds: int,
) -> tuple[Tensor, int, list[float]]:
    """Make EM's noise as the official code does, image by image, without the code under test.

    `step` is in pixel range. Returns the noise in pixel range, the number of rounds, and the norms of the gradients.
    """
    weights = list(net.parameters())
    momentum: list[Tensor] = []
    norms: list[float] = []
    noise = [torch.zeros(images.shape[1:]) for _ in images]  # stored in single precision
    batches = [order[first : first + batch] for first in range(0, len(order), batch)]
    training_steps = 0

    def protect(chosen: list[int]) -> Tensor:
        return torch.stack([images[image] + noise[image] for image in chosen])  # not clipped

    rounds_run = 0
    while rounds_run < rounds:
        rounds_run += 1
        net.train()
        for _ in range(learn):
            chosen = batches[training_steps % len(batches)]
            training_steps += 1
            loss = F.cross_entropy(net(protect(chosen)), labels[chosen])
            gradients = torch.autograd.grad(loss, weights)
            norms.append(float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5)
            gradients = [gradient * min(1, 5 / norms[-1]) for gradient in gradients]
            gradients = [gradient + 5e-4 * weight.detach() for gradient, weight in zip(gradients, weights, strict=True)]
            momentum = (
                [0.9 * old + gradient for old, gradient in zip(momentum, gradients, strict=True)]
                if momentum
                else gradients
            )
            with torch.no_grad():
                for weight, change in zip(weights, momentum, strict=True):
                    weight -= rate * change
        net.eval()
        for image, clean in enumerate(images):
            for _ in range(noise_steps):
                point = (clean + noise[image]).clamp(0, 1)[None].requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), labels[image : image + 1]), point)
                stepped = (point.detach() - step * gradient.sign())[0]
                noise[image] = (stepped - clean).clamp(-RADIUS, RADIUS)
            noise[image] = noise[image].float()
        wrong = sum(int(net(protect([image])).argmax()) != int(labels[image]) for image in range(len(images)))
        if wrong / len(images) <= stop_error:
            break
    return torch.stack(noise), rounds_run, norms


class RecordingNetwork(nn.Module):
    """Wraps a network and records the images of every training step and the mode of every other pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.trained_on, self.attacked = net, list[Tensor](), list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        if any(weight.requires_grad for weight in self.parameters()):
            assert all(module.training for module in self.modules()), "a surrogate step in eval mode"
            self.trained_on.append(images.detach())
        else:
            assert not any(module.training for module in self.modules()), "a noise or attack step in train mode"
            self.attacked.append(images.detach())
        return self.net(images)
