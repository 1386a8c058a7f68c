"""Pixels, augmentation, PGD and training: the parts that everything else relies on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import Recipe, kit
from uebench.compute.optimisation import Training, learning_rate


def network(dropout: float = 0.0) -> nn.Module:
    """Return a tiny network with batch norm whose running statistics are not the initial ones."""
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(144, 5),
    )
    made(torch.rand(16, 3, 6, 6))
    return made


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(count, 3, 6, 6), torch.randint(0, 5, (count,))


def test_bytes_survive_the_way_to_float_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(kit.to_bytes(kit.to_float(pixels)), pixels)


@given(st.floats(0.001, 1), st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_quantised_noise_stays_within_any_radius(radius: float, values: list[float]) -> None:
    delta = torch.tensor(values).clamp(-radius, radius)
    steps = kit.quantise(delta, radius) * 255
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert float(steps.abs().max()) <= radius * 255 + 1e-4
    assert bool(((kit.quantise(delta, radius) - delta).abs() * 255 < 1 + 1e-4).all())


def test_quantising_rounds_to_the_nearest_and_keeps_signs() -> None:
    delta = torch.tensor([-8.0, -3.6, -0.4, 0.6, 7.9]) / 255
    assert torch.allclose(kit.quantise(delta, 8 / 255) * 255, torch.tensor([-8.0, -4.0, 0.0, 1.0, 8.0]))
    assert float(kit.quantise(torch.tensor([7.9 / 255]), 7.9 / 255)) * 255 == pytest.approx(7)


def test_crops_and_flips_are_windows_of_the_padded_image() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 5, 7)
    padded = F.pad(images, (2, 2, 2, 2))
    seen = kit.crop_and_flip(images, 2)
    found = set()
    for place in range(64):
        windows = {
            (top, left, mirrored): (window.flip(-1) if mirrored else window)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            for window in [padded[place, :, top : top + 5, left : left + 7]]
        }
        match = [key for key, window in windows.items() if torch.equal(window, seen[place])]
        assert match, "no window of the padded image"
        found.add(match[0])
    assert len(found) > 25, "one draw for the whole batch instead of one per image"


def test_gradients_flow_through_crop_and_flip_to_the_right_pixels() -> None:
    images = torch.rand(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def seen(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return kit.crop_and_flip(x, 2)

    assert torch.autograd.gradcheck(seen, (images,))


def test_pgd_equals_the_algorithm_written_out() -> None:
    net, (x, y) = network().eval(), batch()
    torch.manual_seed(5)
    found = kit.pgd(net, x, y, radius=0.1, steps=3, step=0.04)
    torch.manual_seed(5)
    z = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
    for _ in range(3):
        z.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(z), y), z)
        z = z.detach() + 0.04 * slope.sign()
        z = (x + (z - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert torch.allclose(found, z, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-3, 1), st.integers(1, 4), st.floats(0.01, 2), st.booleans(), st.booleans())
def test_pgd_stays_in_the_ball_and_in_range(radius: float, steps: int, step: float, ascend: bool, start: bool) -> None:
    net, (x, y) = network(), batch()
    found = kit.pgd(net, x, y, radius=radius, steps=steps, step=step * radius, ascend=ascend, random_start=start)
    assert float((found - x).abs().max()) <= radius + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert not found.requires_grad


def test_pgd_climbs_and_descends() -> None:
    net, (x, y) = network().eval(), batch()

    def loss(z: Tensor) -> float:
        return float(F.cross_entropy(net(z), y).detach())

    options = {"radius": 0.1, "steps": 10, "step": 0.02}
    assert loss(kit.pgd(net, x, y, **options)) > loss(x) > loss(kit.pgd(net, x, y, ascend=False, **options))  # type: ignore[arg-type]


def test_pgd_of_radius_or_steps_zero_draws_nothing_and_returns_the_images() -> None:
    net, (x, y) = network(), batch()
    before = torch.get_rng_state()
    assert kit.pgd(net, x, y, radius=0, steps=3, step=0.1) is x
    assert kit.pgd(net, x, y, radius=0.1, steps=0, step=0.1) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_pgd_works_in_eval_mode_and_leaves_the_network_as_it_was() -> None:
    net, (x, y) = network(dropout=0.5), batch()
    net[1].training = False  # a layer that its owner froze stays frozen
    net[5].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen: list[bool] = []
    net[3].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    kit.pgd(net, x, y, radius=0.1, steps=3, step=0.04)
    assert seen == [False] * 3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert net[0].weight.requires_grad
    assert not net[5].bias.requires_grad
    assert all(weight.grad is None for weight in net.parameters())


def test_pgd_accepts_soft_targets() -> None:
    net, (x, y) = network(), batch()
    torch.manual_seed(7)
    hard = kit.pgd(net, x, y, radius=0.1, steps=2, step=0.05)
    torch.manual_seed(7)
    soft = kit.pgd(net, x, F.one_hot(y, 5).float(), radius=0.1, steps=2, step=0.05)
    assert torch.allclose(hard, soft)


def test_the_step_schedule_is_the_papers() -> None:
    paper, surrogate = Recipe(), Recipe(steps=5000)
    changes = [step for step in range(1, 40_000) if learning_rate(paper, step) != learning_rate(paper, step - 1)]
    assert changes == [16_000, 32_000]
    assert learning_rate(paper, 39_999) == pytest.approx(0.001)
    assert [learning_rate(surrogate, step) for step in (0, 1999, 2000, 4000)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_one_cycle_rises_to_its_peak_and_ends_near_zero() -> None:
    recipe = Recipe(steps=100, schedule="one-cycle", lr=0.2)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert max(rates) == pytest.approx(0.2, rel=0.02)
    assert 15 <= rates.index(max(rates)) <= 25
    assert 0 < rates[-1] < 0.005


def test_an_epoch_shows_every_image_once_but_the_incomplete_batch() -> None:
    training = Training(network(), Recipe(batch=4), count=10, seed=3)
    first = torch.cat([training.batch(step) for step in range(2)])
    second = torch.cat([training.batch(step) for step in range(2, 4)])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 8
    assert first.tolist() != second.tolist()
    again = Training(network(), Recipe(batch=4), count=10, seed=3)
    assert again.batch(3).tolist() == training.batch(3).tolist(), "the order follows from seed and step alone"


def test_a_batch_larger_than_the_set_is_the_set() -> None:
    assert len(Training(network(), Recipe(batch=128), count=10, seed=3).batch(7)) == 10


def test_a_resumed_training_takes_the_same_steps_to_the_bit() -> None:
    x, y = batch()

    def advance(training: Training, first: int, last: int) -> None:
        for step in range(first, last):
            training.step(step, x, y)

    straight = Training(network(), Recipe(steps=6), 8, 0)
    advance(straight, 0, 6)
    broken = Training(network(), Recipe(steps=6), 8, 0)
    advance(broken, 0, 3)
    state = {name: value.clone() for name, value in broken.state().items()}
    resumed = Training(network(), Recipe(steps=6), 8, 0)
    resumed.resume(state)
    advance(resumed, 3, 6)
    for name, value in straight.state().items():
        assert torch.equal(value, resumed.state()[name]), name
    assert math.isfinite(float(straight.step(5, x, y)[0]))


def test_a_name_of_the_last_release_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"uebench\.kit\.slope is now uebench\.kit\.image_gradient"):
        assert kit.slope is kit.image_gradient
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        kit.nothing  # noqa: B018
