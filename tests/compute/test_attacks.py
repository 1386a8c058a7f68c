"""Attacks against their rules written out, image by image, in double precision; and what they leave untouched."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import data, surrogate
from uebench import kit
from uebench.compute.attacks import _checkpoint_steps, adversary, apgd, pgd

RADIUS = 0.1


class Waves(nn.Module):
    """Two logits that differ by a fast wave of each pixel: a landscape of many hills, on which steps go astray."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        height = (torch.sin(40 * pixels) + torch.sin(20 * pixels + 1)).sum(1)
        return torch.stack([torch.zeros_like(height), height], 1)


class Hill(nn.Module):
    """Two logits whose difference is highest where every pixel is 0.53."""

    def forward(self, images: Tensor) -> Tensor:
        height = -100 * (images - 0.53).square().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(height), height], 1)


class Counted(nn.Module):
    """Wraps a network and notes the points it is asked about, and whether a gradient was wanted."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.points, self.slopes = net, list[Tensor](), list[bool]()

    def forward(self, images: Tensor) -> Tensor:
        self.points.append(images.detach().clone())
        self.slopes.append(torch.is_grad_enabled() and images.requires_grad)
        return self.net(images)


def losses(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with kit.frozen(net), torch.no_grad():
        return F.cross_entropy(net(images), labels, reduction="none")


def start_of(images: Tensor, radius: float, seed: int = 4) -> Tensor:
    """Return the random point that an attack begins at under this seed."""
    torch.manual_seed(seed)
    drawn = torch.empty_like(images).uniform_(-radius, radius)
    return torch.min(torch.max(images + drawn, (images - radius).clamp(min=0)), (images + radius).clamp(max=1))


def marks(steps: int) -> list[int]:
    """Return the checkpoints of the rule, in exact fractions."""
    shares = [Fraction(0), Fraction(22, 100)]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - Fraction(3, 100), Fraction(6, 100)))
    return sorted({place for place in (math.ceil(share * steps) for share in shares[1:]) if place < steps})


def climb(net: nn.Module, image: Tensor, label: Tensor, start: Tensor, steps: int, why: Counter[str]) -> Tensor:
    """Auto-PGD on one image (1, c, h, w) by the rule of the paper; `why` counts what checkpoints decide."""
    lowest, highest = (image - RADIUS).clamp(min=0), (image + RADIUS).clamp(max=1)

    def project(point: Tensor) -> Tensor:
        return torch.min(torch.max(point, lowest), highest)

    def ask(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_(True)
        loss = F.cross_entropy(net(leaf), label)
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0].sign()

    size, halved_there, mark = 2 * RADIUS, False, 0
    points = [start, start]  # the one before the last, and the last
    height, slope = ask(start)
    best, best_height, best_slope = start, height, slope
    best_there, climbs = height, list[bool]()
    for step in range(1, steps + 1):
        aim = project(points[1] + size * slope)
        share = 1.0 if step == 1 else 0.75
        moved = project(points[1] + share * (aim - points[1]) + (1 - share) * (points[1] - points[0]))
        points = [points[1], moved]
        before = height
        height, slope = ask(moved)
        climbs.append(height > before)
        if height > best_height:
            best, best_height, best_slope = moved, height, slope
        if step in marks(steps):
            few = sum(climbs) < 0.75 * (step - mark)
            stale = not halved_there and best_height == best_there
            spared = halved_there and best_height == best_there and not few
            why["few" * few + "stale" * stale or "spared" * spared or "neither"] += 1
            best_there, halved_there, mark, climbs = best_height, few or stale, step, []
            if few or stale:
                size /= 2
                points[1], height, slope = best, best_height, best_slope
    return best


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20])
def test_apgd_is_the_papers_rule_image_by_image(steps: int) -> None:
    net, (images, labels) = surrogate().eval(), data()
    torch.manual_seed(4)
    found = apgd(net, images, labels, radius=RADIUS, steps=steps)
    start = start_of(images, RADIUS)
    for place in range(len(images)):
        one = slice(place, place + 1)
        expected = climb(net, images[one], labels[one], start[one], steps, Counter())
        assert torch.allclose(found[one], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [3, 10, 20])
def test_apgd_is_the_rule_where_both_of_its_doubts_come_up(steps: int) -> None:
    """On smooth ground hardly a step fails; here steps go astray, and checkpoints of every kind must occur.

    A stale image whose step was halved at the checkpoint before is spared.
    """
    net, images = Waves(), torch.rand(120, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    labels, why = torch.zeros(120, dtype=torch.int64), Counter[str]()
    torch.manual_seed(4)
    found = apgd(net, images, labels, radius=RADIUS, steps=steps)
    start = start_of(images, RADIUS)
    expected = [
        climb(net, images[one], labels[one], start[one], steps, why)
        for one in (slice(place, place + 1) for place in range(120))
    ]
    assert torch.allclose(found, torch.cat(expected), rtol=0, atol=1e-12)
    if steps == 20:
        assert set(why) == {"few", "stale", "fewstale", "spared", "neither"}, why


def test_checkpoints_are_those_of_the_paper() -> None:
    assert list(_checkpoint_steps(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert _checkpoint_steps(10) == {3: 0, 5: 3, 6: 5, 7: 6, 8: 7, 9: 8}
    assert _checkpoint_steps(1) == {}
    for steps in range(1, 301):
        assert list(_checkpoint_steps(steps)) == marks(steps), steps


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-4, 1), st.integers(1, 12), st.integers(0, 2**31))
def test_apgd_stays_in_the_ball_and_in_range_and_keeps_the_best_it_saw(radius: float, steps: int, seed: int) -> None:
    net, (images, labels) = Counted(surrogate()), data()
    torch.manual_seed(seed)
    found = apgd(net, images, labels, radius=radius, steps=steps)
    assert not found.requires_grad
    assert found.dtype == images.dtype
    assert float((found - images).abs().max()) <= radius + 1e-12
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    seen = torch.stack([losses(net.net, point, labels) for point in net.points])
    assert torch.allclose(losses(net.net, found, labels), seen.max(0).values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_apgds_passes_are_one_gradient_a_step_and_a_last_look(steps: int) -> None:
    net, (images, labels) = Counted(surrogate()), data()
    apgd(net, images, labels, radius=RADIUS, steps=steps)
    assert net.slopes == [True] * steps + [False]


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "rs-fgsm", "apgd"])
def test_attacks_leave_the_network_as_it_was(attack: Any) -> None:
    net, (images, labels) = surrogate(), data()
    net[1].training = False  # a layer that its owner froze stays frozen
    net[4].bias.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = images.clone()
    adversary(attack, net, images, labels, radius=RADIUS, steps=3, step=0.05)
    assert [module.training for module in net.modules()] == modes
    assert [weight.requires_grad for weight in net.parameters()] == [True] * 5 + [False]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(images, given)


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "rs-fgsm", "apgd"])
def test_radius_or_steps_zero_return_the_images_and_draw_nothing(attack: Any) -> None:
    net, (images, labels) = Counted(surrogate()), data()
    before = torch.get_rng_state()
    assert adversary(attack, net, images, labels, radius=0, steps=3, step=0.1) is images
    assert adversary(attack, net, images, labels, radius=RADIUS, steps=0, step=0.1) is images
    assert apgd(net, images, labels, radius=0, steps=3) is images
    assert apgd(net, images, labels, radius=RADIUS, steps=0) is images
    assert not net.points
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "rs-fgsm", "apgd"])
def test_no_gradient_reaches_the_images_through_an_attack(attack: Any) -> None:
    net, (images, labels) = surrogate(), data()
    images.requires_grad_(True)
    assert not adversary(attack, net, images, labels, radius=RADIUS, steps=3, step=0.05).requires_grad


def test_apgd_climbs_on_where_long_steps_swing_to_and_fro() -> None:
    net, labels = Hill(), torch.zeros(16, dtype=torch.int64)
    images = 0.45 + 0.1 * torch.rand(16, 1, 3, 3, dtype=torch.float64)
    torch.manual_seed(1)
    swung = losses(net, pgd(net, images, labels, radius=0.2, steps=20, step=0.2), labels)
    torch.manual_seed(1)
    found = losses(net, apgd(net, images, labels, radius=0.2, steps=20), labels)
    assert bool((found > swung).all())
    assert float(found.mean()) > 0.6, "the top is at the logarithm of two"


def test_apgd_takes_soft_targets() -> None:
    net, (images, labels) = surrogate(), data()
    found = []
    for targets in (labels, F.one_hot(labels, 4).double()):
        torch.manual_seed(7)
        found.append(apgd(net, images, targets, radius=RADIUS, steps=4))
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def slope_at(net: nn.Module, point: Tensor, labels: Tensor) -> Tensor:
    point = point.clone().requires_grad_(True)
    with kit.frozen(net):
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), labels), point)
    return slope.sign()


def test_fgsm_is_one_step_of_the_radius_from_the_image() -> None:
    net, (images, labels) = Counted(surrogate()), data()
    before = torch.get_rng_state()
    found = adversary("fgsm", net, images, labels, radius=RADIUS, steps=7, step=0.01)
    assert torch.equal(torch.get_rng_state(), before), "there is nothing to draw"
    assert len(net.points) == 1
    assert torch.equal(net.points[0], images)
    expected = (images + RADIUS * slope_at(net.net, images, labels)).clamp(0, 1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_rs_fgsm_is_one_longer_step_from_a_random_point() -> None:
    net, (images, labels) = Counted(surrogate()), data()
    torch.manual_seed(4)
    found = adversary("rs-fgsm", net, images, labels, radius=RADIUS, steps=7, step=0.01)
    start = start_of(images, RADIUS)
    assert len(net.points) == 1
    assert torch.equal(net.points[0], start)
    moved = start + 1.25 * RADIUS * slope_at(net.net, start, labels)
    expected = (images + (moved - images).clamp(-RADIUS, RADIUS)).clamp(0, 1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_named_attacks_are_the_functions() -> None:
    net, (images, labels) = surrogate(), data()
    torch.manual_seed(4)
    whole = adversary("pgd", net, images, labels, radius=RADIUS, steps=3, step=0.03)
    torch.manual_seed(4)
    assert torch.equal(whole, kit.pgd(net, images, labels, radius=RADIUS, steps=3, step=0.03))
    torch.manual_seed(4)
    auto = adversary("apgd", net, images, labels, radius=RADIUS, steps=3, step=0.03)
    torch.manual_seed(4)
    assert torch.equal(auto, kit.apgd(net, images, labels, radius=RADIUS, steps=3))
    assert not torch.equal(auto, whole)


def test_an_unknown_attack_is_refused() -> None:
    net, (images, labels) = surrogate(), data()
    with pytest.raises(ValueError, match=r"unknown attack 'cw' in norm linf; known: pgd, fgsm, rs-fgsm, apgd"):
        adversary("cw", net, images, labels, radius=RADIUS, steps=1, step=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unknown attack .apgd. in norm l2; .* \(apgd in norm linf only\)"):
        adversary("apgd", net, images, labels, radius=RADIUS, steps=1, step=0.1, norm="l2")


def test_pgd_begins_where_it_is_told_within_the_ball() -> None:
    net, (images, labels) = Counted(surrogate()), data()
    before = torch.get_rng_state()
    start = images + 3 * RADIUS * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    given = start.clone()
    found = pgd(net, images, labels, radius=RADIUS, steps=2, step=0.02, start=start)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(start, given)
    begun = net.points[0]
    assert torch.allclose(begun, (images + (start - images).clamp(-RADIUS, RADIUS)).clamp(0, 1), rtol=0, atol=1e-12)
    point = begun
    for _ in range(2):
        point = (point + 0.02 * slope_at(net.net, point, labels)) - images
        point = (images + point.clamp(-RADIUS, RADIUS)).clamp(0, 1)
    assert torch.allclose(found, point, rtol=0, atol=1e-12)
