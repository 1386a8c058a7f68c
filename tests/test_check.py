"""The contract check finds what is wrong: components that break one rule each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TINY
from uebench import Breaker, Context, Noise, Target, check, suite
from uebench.registry import registry


def broken(kind: str, component: Noise | Breaker | Target) -> list[str]:
    """Return the rules that a component does not keep, but for being importable and documented."""
    usual = {"says what it is", "names its source", "can be sent to a worker"}
    return [one.rule for one in check.check(kind, component) if not one.kept and one.rule not in usual]


@pytest.mark.parametrize("name", ["em", "rem", "sem"])
def test_long_noises_are_interrupted_and_resumed(name: str) -> None:
    noise = registry().build("noise", name, suite.read(str(TINY)).defaults)
    assert "resumes to the same bytes" in [finding.rule for finding in check.check("noise", noise)]


def test_a_noise_that_changes_its_inputs() -> None:
    class Changes(Noise):
        name = "changes"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            labels.zero_()
            return torch.zeros_like(images)

    assert broken("noise", Changes()) == ["leaves its inputs alone"]


def test_a_noise_with_a_random_source_of_its_own() -> None:
    class Random(Noise):
        name = "random"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            own = torch.Generator()
            own.seed()
            return torch.rand(images.shape, generator=own) * self.radius

    assert broken("noise", Random()) == ["same seed, same bytes"]


def test_a_noise_that_forgets_what_it_kept() -> None:
    class Forgets(Noise):
        name = "forgets"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            delta = torch.zeros_like(images)
            for _ in context.steps(10):
                delta += torch.rand_like(delta) * self.radius / 10
                context.keep(delta=delta)
            return delta

    assert broken("noise", Forgets()) == ["resumes to the same bytes"]


def test_a_noise_over_its_budget_or_of_the_wrong_shape() -> None:
    class Large(Noise):
        name = "large"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return torch.full_like(images, 1.5 * self.radius)

    class Flat(Noise):
        name = "flat"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return torch.zeros(len(images))

    assert broken("noise", Large()) == broken("noise", Flat()) == ["keeps shape, type and budget"]


def test_a_breaker_that_leaves_its_marks_on_the_model() -> None:
    class Marks(Breaker):
        name = "marks"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            model(images)  # in train mode: moves the running statistics
            return images

    assert broken("breaker", Marks()) == ["attack leaves the model alone"]


def test_a_breaker_that_leaves_the_pixel_range() -> None:
    class Bright(Breaker):
        name = "bright"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return images + 0.5, targets

    assert broken("breaker", Bright()) == ["augment keeps shape, type and range"]


def test_a_target_that_gives_no_logits_or_stops_gradients() -> None:
    class Three(Target):
        name = "three"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 3))

    class Detached(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach()) + 0 * images.sum()

    class Stops(Target):
        name = "stops"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(Detached(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    assert broken("target", Three()) == ["gives logits"]
    assert broken("target", Stops()) == ["lets gradients reach the image"]
