"""The noises are the methods of the papers: each step against a reference written out by hand in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import Noise, Recipe, Target, kit
from uebench.seeds import derive, sow
from uebench.train import build
from uebench_plugins.noises.em import EM
from uebench_plugins.noises.rem import REM
from uebench_plugins.noises.sem import SEM
from uebench_plugins.targets.smallcnn import SmallCNN

RADIUS, ADV_RADIUS = 0.1, 0.05


class Sink:
    """A context on the host, with the augmentation of a 6x6 set, that also records what the surrogate was shown."""

    device, classes, seed = torch.device("cpu"), 4, 7

    def __init__(self, network: nn.Module | None = None) -> None:
        self.lent = network

    def augment(self, images: Tensor) -> Tensor:
        return kit.crop_and_flip(images, 1)

    def network(self, target: Target | str) -> nn.Module:
        assert isinstance(target, Target)
        return self.lent or build(target, (3, 6, 6), self.classes, "fp32", self.device, derive(self.seed, "surrogate"))

    def steps(self, count: int) -> Iterator[int]:
        for step in range(count):
            sow(step)
            yield step

    def keep(self, **state: Tensor) -> None:
        pass

    def kept(self) -> Mapping[str, Tensor]:
        return {}


def surrogate() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(180, 4)
    ).double()
    net(torch.rand(32, 3, 6, 6, dtype=torch.float64))
    return net


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    images = torch.rand(count, 3, 6, 6, dtype=torch.float64)
    images[:, :, 0], images[:, :, 5] = 0.0, 1.0  # saturated pixels, where the clamp stops the gradient
    return images, torch.arange(count) % 4


def views(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the crop-and-flip draws as an explicit (b, 36, 36 * 4) linear map: written without the code under test."""
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


def reference(net: nn.Module, images: Tensor, labels: Tensor, noise: REM, adversarial: bool) -> Tensor:
    """REM's noise step (paper, equation 5) with an explicit augmentation matrix and the chain rule by hand."""
    net.eval()

    def slope_at(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(net(point), labels), point)[0]

    delta = torch.empty_like(images).uniform_(-RADIUS, RADIUS)
    for _ in range(noise.noise_steps):
        total = torch.zeros_like(images)
        for _ in range(noise.draws):
            protected = images + delta
            seen, matrix = views(protected.clamp(0, 1))
            start = torch.empty_like(seen).uniform_(-ADV_RADIUS, ADV_RADIUS)
            point = (seen + start).clamp(0, 1)
            for _ in range(noise.adv_steps if adversarial else 0):
                moved = point + noise.adv_step * ADV_RADIUS * slope_at(point).sign()
                point = (seen + (moved - seen).clamp(-ADV_RADIUS, ADV_RADIUS)).clamp(0, 1)
            back = torch.einsum("bij,bci->bcj", matrix, slope_at(point).flatten(2)).view_as(images)
            total += back * ((protected >= 0) & (protected <= 1))
        delta = (delta - noise.noise_step * RADIUS * total.sign()).clamp(-RADIUS, RADIUS)
    net.train()
    return delta


SETTINGS = {
    "radius": RADIUS,
    "adv_radius": ADV_RADIUS,
    "surrogate": SmallCNN(width=4),
    "draws": 3,
    "noise_steps": 4,
    "noise_step": 0.4,
    "adv_steps": 2,
    "adv_step": 0.5,
    "steps": 5,
    "batch": 8,
}


@pytest.mark.parametrize(("cls", "adversarial"), [(REM, True), (SEM, False)])
def test_the_noise_step_is_the_papers(cls: type[REM], adversarial: bool) -> None:
    noise, net, (images, labels) = cls(**SETTINGS), surrogate(), data()
    torch.manual_seed(11)
    with kit.frozen(net):
        found = noise.noise(net, images, labels, Sink())
    torch.manual_seed(11)
    expected = reference(net, images, labels, noise, adversarial)
    assert torch.allclose(found, expected, atol=1e-12)


def test_sem_is_rem_but_for_the_point_of_the_gradient() -> None:
    own = {name for name in vars(SEM) if not name.startswith("__")} - {"name", "paper"}
    assert own == {"perturb"}
    images, labels = data()
    net = surrogate()
    found = []
    for cls in (REM, SEM):
        torch.manual_seed(11)
        with kit.frozen(net):
            found.append(cls(**SETTINGS).noise(net, images, labels, Sink()))
    assert not torch.equal(*found)


def test_without_an_attack_radius_rem_and_sem_are_the_same() -> None:
    net, (images, labels) = surrogate(), data()
    settings = {**SETTINGS, "adv_radius": 0.0}
    found = []
    for cls in (REM, SEM):
        torch.manual_seed(11)
        with kit.frozen(net):
            found.append(cls(**settings).noise(net, images, labels, Sink()))
    assert torch.equal(*found)


def test_the_gradient_is_taken_at_the_attacked_point_of_each_draw_and_not_through_the_attack() -> None:
    noise, net, (images, labels) = REM(**{**SETTINGS, "draws": 1, "noise_steps": 1}), surrogate().eval(), data()
    images = images.clamp(0.2, 0.8)
    delta = torch.full_like(images, 0.01)
    torch.manual_seed(4)
    found = noise.slope(net, images, delta, labels, Sink())
    torch.manual_seed(4)
    seen, matrix = views(images + delta)
    point = noise.attack(net, seen, labels).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)
    expected = torch.einsum("bij,bci->bcj", matrix, slope.flatten(2)).view_as(images)
    assert torch.allclose(found, expected, atol=1e-12)


class Watched(nn.Module):
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


@pytest.mark.parametrize(
    ("noise", "per_step", "per_sweep"),
    [
        (EM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=5, batch=8), 4 + 1, 4),
        (REM(**SETTINGS), 4 * 3 * (2 + 1) + 2 + 1, 4 * 3 * (2 + 1)),
        (SEM(**SETTINGS), 4 * 3 + 2 + 1, 4 * 3),
    ],
    ids=["em", "rem", "sem"],
)
def test_passes_are_those_of_the_method(noise: Noise, per_step: int, per_sweep: int) -> None:
    images, labels = data()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    noise.make(images.float(), labels, Sink(net))
    assert len(net.trained_on) + len(net.attacked) == 5 * per_step + 2 * per_sweep
    assert len(net.trained_on) == 5


@pytest.mark.parametrize("cls", [REM, SEM])
def test_rem_and_sem_train_their_surrogate_on_attacked_images(cls: type[REM], monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[Tensor] = []
    plain_attack = cls.attack

    def attack(self: REM, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attacked.append(plain_attack(self, network, x, y))
        return attacked[-1]

    monkeypatch.setattr(REM, "attack", attack)
    images, labels = data()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    cls(**{**SETTINGS, "steps": 1}).make(images.float(), labels, Sink(net))
    assert sum(torch.equal(net.trained_on[0], one) for one in attacked) == 1


@pytest.mark.parametrize("augment", [True, False])
def test_em_makes_its_noise_in_the_images_own_frame_and_shows_the_surrogate_augmented_views(augment: bool) -> None:
    images, labels = data()
    images = images.float()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=1, batch=12, augment=augment)
    noise.make(images, labels, Sink(net))
    for batch in net.attacked:
        assert bool((nearest(batch, images) <= RADIUS + 1e-6).all())
    shown = nearest(net.trained_on[0], images)
    assert bool((shown > 0).all())
    assert bool((shown <= RADIUS + 1e-6).all()) is not augment


def nearest(batch: Tensor, images: Tensor) -> Tensor:
    """Return the L-inf distance from each image of a batch to the nearest clean one."""
    return torch.stack([(images - one).abs().amax((1, 2, 3)).min() for one in batch])


def test_noise_stays_with_its_image_under_shuffling_and_no_image_is_left_out() -> None:
    """Every image has a grey value of its own, by which the noise made for it is noted."""
    torch.manual_seed(0)
    count = 21
    images = (torch.arange(count).float() / (2 * count) + 0.2)[:, None, None, None].expand(count, 3, 6, 6).clone()
    labels = torch.arange(count) % 4
    placed: dict[int, Tensor] = {}

    def make(x: Tensor, y: Tensor) -> Tensor:
        fresh = torch.empty_like(x).uniform_(-0.01, 0.01)
        for image, value in zip(x, kit.quantise(fresh, RADIUS), strict=True):
            placed[round(float((image[0, 0, 0] - 0.2) * 2 * count))] = value
        return fresh

    delta = kit.alternate(
        images,
        labels,
        Sink(),
        network=SmallCNN(width=4).build((3, 6, 6), 4),
        recipe=Recipe(steps=7, batch=8),
        radius=RADIUS,
        make=make,
        view=lambda x, y: x,
    )
    assert sorted(placed) == list(range(count))
    assert all(torch.equal(delta[index], placed[index]) for index in range(count))


def test_em_lowers_the_loss_on_the_released_image() -> None:
    images, labels = data(24)
    images = images.float()
    net = build(SmallCNN(width=8), (3, 6, 6), 4, "fp32", torch.device("cpu"), 3)
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=8), steps=30, batch=8)
    delta = noise.make(images, labels, Sink(net))
    with kit.frozen(net):
        before, after = (F.cross_entropy(net(x), labels) for x in (images, kit.to_float(kit.to_bytes(images + delta))))
    assert float(after) < float(before)


def test_surrogate_and_target_start_from_different_weights() -> None:
    target = SmallCNN(width=4)
    ours, theirs = (
        build(target, (3, 6, 6), 4, "fp32", torch.device("cpu"), derive(0, role)) for role in ("surrogate", "train")
    )
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not any(torch.equal(one, other) for one, other in pairs if one.ndim == 4)
