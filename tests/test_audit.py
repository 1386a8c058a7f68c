"""The released image: eight bits, within the budget whatever the radius, and measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from uebench import Noise, audit
from uebench.audit import ContractError


class Any8(Noise):
    """A noise whose radius is a parameter and that makes nothing itself."""

    name = "any"


def pixels(count: int = 6, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@settings(deadline=None)
@given(st.floats(0.0005, 1.0), st.integers(0, 2**31))
def test_released_images_stay_within_any_radius(radius: float, seed: int) -> None:
    clean = pixels()
    draw = torch.Generator().manual_seed(seed)
    delta = (torch.rand(clean.shape, generator=draw) * 2 - 1) * radius
    delta[0] = radius
    delta[1] = -radius
    released = audit.release(Any8(radius=radius), clean, delta)
    assert released.dtype == torch.uint8
    change = (released.int() - clean.int()).abs().max()
    assert int(change) <= radius * 255 + 1e-6


def test_a_noise_on_the_border_of_its_budget_is_released_whole() -> None:
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    for radius in (4, 8, 16, 32):
        images = clean.float() / 255
        delta = (images - radius / 255).clamp(0, 1) - images  # as float32 arithmetic leaves it
        released = audit.release(Any8(radius=radius / 255), clean, delta)
        assert released.unique().tolist() == [100 - radius]


def test_signs_are_kept_and_sums_do_not_wrap() -> None:
    clean = torch.tensor([0, 3, 250, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    up = audit.release(Any8(radius=8 / 255), clean, torch.full(clean.shape, 8 / 255))
    down = audit.release(Any8(radius=8 / 255), clean, torch.full(clean.shape, -8 / 255))
    assert up.flatten().tolist() == [8, 11, 255, 255]
    assert down.flatten().tolist() == [0, 0, 242, 247]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (None, "returned NoneType, not a tensor"),
        (torch.zeros(6, 3, 12), r"returned shape \(6, 3, 12\), not \(6, 3, 12, 12\)"),
        (torch.zeros(6, 3, 12, 12, dtype=torch.int64), "returned torch.int64, not floating point"),
        (torch.full((6, 3, 12, 12), math.nan), "no numbers"),
        (torch.full((6, 3, 12, 12), math.inf), "no numbers"),
        (torch.full((6, 3, 12, 12), 8.01 / 255), "returned 8.01/255, over its budget 8/255"),
    ],
)
def test_a_noise_that_breaks_the_contract_is_refused_by_name(delta: Any, expected: str) -> None:
    with pytest.raises(ContractError, match=f"noise any .*{expected}"):
        audit.release(Any8(), pixels(), delta)


@pytest.mark.parametrize("size", [8, 12, 32])
def test_visibility_equals_an_independent_measurement(size: int) -> None:
    clean = pixels(4, size)
    change = torch.randint(-8, 9, clean.shape, generator=torch.Generator().manual_seed(1))
    released = (clean.int() + change).clamp(0, 255).to(torch.uint8)
    found = audit.visibility(clean, released)
    x, z = clean.double() / 255, released.double() / 255
    assert found["noise_linf"] == pytest.approx(8 / 255)
    assert found["noise_l2"] == pytest.approx(float((z - x).flatten(1).norm(dim=1).mean()))
    assert found["psnr"] == pytest.approx(float(10 * torch.log10(1 / (z - x).square().mean())))
    window = {"gaussian_weights": True, "sigma": 1.5} if size >= 11 else {"win_size": 7}
    expected = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1, use_sample_covariance=False, **window)
        for a, b in zip(x, z, strict=True)
    ]
    assert found["ssim"] == pytest.approx(sum(expected) / 4, abs=2e-4)


def test_no_change_is_no_noise() -> None:
    clean = pixels()
    assert audit.visibility(clean, clean) == {"noise_linf": 0, "noise_l2": 0, "psnr": None, "ssim": 1}
