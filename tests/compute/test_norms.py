"""L1 and L2 attacks: the released code's steps and projection where asked for, the exact ones where asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import data, surrogate
from uebench import kit
from uebench.compute.norms import project, step_direction
from uebench_plugins.breakers.adv_l1 import AdvL1
from uebench_plugins.breakers.adv_l2 import AdvL2

NORMS = ["linf", "l2", "l1", "l1-exact"]


def size(delta: Tensor, norm: str) -> Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(p={"l2": 2.0}.get(norm, 1.0), dim=1)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(NORMS), st.floats(1e-3, 50), st.integers(1, 4), st.floats(0.01, 3), st.booleans(), st.booleans())
def test_every_iterate_stays_in_the_ball_and_in_range(
    norm: str, radius: float, steps: int, step: float, ascend: bool, start: bool
) -> None:
    net, (images, labels) = surrogate(), data()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    options = {"radius": radius, "steps": steps, "step": step * radius, "norm": norm}
    found = kit.pgd(net, images, labels, ascend=ascend, random_start=start, **options)  # type: ignore[arg-type]
    for point in [*seen, found]:
        assert bool((size(point - images, norm) <= radius * (1 + 1e-6) + 1e-9).all())
        assert float(point.min()) >= 0
        assert float(point.max()) <= 1


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_released_codes_attack_written_out(norm: str) -> None:
    """Dense steps along g / |g|, radial scaling, a start of radius / steps in every pixel; see the reference, 3.2."""
    net, (images, labels) = surrogate().eval(), data()
    radius, steps, order = {"l2": 0.9, "l1": 11.0}[norm], 3, {"l2": 2, "l1": 1}[norm]

    def clip(point: Tensor) -> Tensor:
        out = point.clone()
        for one in range(len(point)):
            delta = point[one] - images[one]
            length = delta.abs().pow(order).sum().pow(1 / order)
            out[one] = images[one] + delta * min(float(length), radius) / (length + 1e-10)
        return out.clamp(0, 1)

    torch.manual_seed(3)
    found = kit.pgd(net, images, labels, radius=radius, steps=steps, step=0.2 * radius, norm=norm)  # type: ignore[arg-type]
    torch.manual_seed(3)
    point = clip(images + torch.empty_like(images).uniform_(-radius / steps, radius / steps))
    for _ in range(steps):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)
        unit = torch.stack([one / (one.abs().pow(order).sum().pow(1 / order) + 1e-10) for one in slope])
        point = clip(point.detach() + 0.2 * radius * unit)
    assert torch.allclose(found, point, atol=1e-12)


def test_the_released_start_lies_on_the_sphere() -> None:
    images = torch.full((8, 3, 32, 32), 0.5)
    reach = torch.empty_like(images).uniform_(-50 / 255 / 10, 50 / 255 / 10)
    assert bool((size(project(reach, 50 / 255, "l2"), "l2") > 0.999 * 50 / 255).all())


@given(st.integers(1, 12), st.floats(0.01, 5), st.integers(0, 2**31))
def test_the_exact_projection_is_the_nearest_point_of_the_ball(width: int, radius: float, seed: int) -> None:
    """By its conditions: on the sphere unless inside, one threshold for all values, none that changes its sign."""
    torch.manual_seed(seed)
    delta = torch.randn(5, 1, 1, width, dtype=torch.float64) * 2
    found = project(delta, radius, "l1-exact").flatten(1)
    for before, after in zip(delta.flatten(1), found, strict=True):
        if float(before.abs().sum()) <= radius:
            assert torch.equal(before, after)
            continue
        assert float(after.abs().sum()) == pytest.approx(radius)
        taken = before.abs() - after.abs()
        level = float(taken.max())
        kept = after != 0
        assert torch.allclose(taken[kept], torch.tensor(level, dtype=torch.float64), atol=1e-9)
        assert bool((before.abs()[~kept] <= level + 1e-9).all())
        assert bool((after * before >= 0).all())


def test_the_exact_step_changes_the_one_value_that_raises_the_loss_most() -> None:
    slope = torch.tensor([[0.1, -3.0, 2.0, 0.0]]).view(1, 1, 2, 2)
    assert step_direction(slope, "l1-exact").flatten().tolist() == [0, -1, 0, 0]
    dense = step_direction(slope, "l1").flatten()
    assert float(dense.abs().sum()) == pytest.approx(1)
    assert bool((dense[:3] != 0).all())


@pytest.mark.parametrize("breaker", [AdvL1(radius=9.0), AdvL1(radius=9.0, exact=True), AdvL2(radius=0.7)])
def test_breakers_climb_and_leave_the_model_alone(breaker: AdvL1 | AdvL2) -> None:
    net, (images, labels) = surrogate(), data()
    torch.manual_seed(0)
    attacked = breaker.attack(net, images, labels, 0.0)
    net.eval()
    losses = [float(F.cross_entropy(net(x), labels).detach()) for x in (images, attacked)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("breaker", [AdvL1(radius=0), AdvL1(steps=0), AdvL2(radius=0), AdvL2(steps=0)])
def test_radius_zero_is_no_attack(breaker: AdvL1 | AdvL2) -> None:
    images = torch.rand(2, 3, 6, 6)
    before = torch.get_rng_state()
    assert breaker.attack(nn.Identity(), images, torch.zeros(2), 0.0) is images
    assert torch.equal(torch.get_rng_state(), before)


def test_the_oddities_are_there_only_when_asked_for() -> None:
    """Scaling keeps all values of a point, projecting drops the small ones; a linear loss tells the steps apart."""
    assert AdvL1().exact is False
    weights = torch.linspace(0.1, 1, 12).view(1, 3, 2, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-weights.flatten(), weights.flatten()]))
    images, labels = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    options = {"radius": 0.3, "steps": 1, "step": 0.3, "random_start": False}
    dense = kit.pgd(net, images, labels, norm="l1", **options) - images  # type: ignore[arg-type]
    steepest = kit.pgd(net, images, labels, norm="l1-exact", **options) - images  # type: ignore[arg-type]
    assert int((dense != 0).sum()) == 12
    assert int((steepest != 0).sum()) == 1
    assert float(steepest.max()) == pytest.approx(0.3)
    assert math.isclose(float(dense.abs().sum()), 0.3, rel_tol=1e-5)
