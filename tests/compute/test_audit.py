"""The released image: eight bits, within the budget whatever the radius, and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from uebench import Budget, Noise, parameter
from uebench.components.errors import ContractError
from uebench.compute import audit


class Any8(Noise):
    """A noise whose radius is a parameter and that makes nothing itself."""

    name = "any"


class Bounded(Noise):
    """A noise whose norm is a parameter as well, and whose radius may be any."""

    name = "bounded"

    norm: Literal["linf", "l2", "l0", "none"] = parameter()
    radius: float = parameter(default=0.0)

    def budget(self, shape: Sequence[int]) -> Budget:
        return Budget(self.norm, self.radius)


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
    released = audit.release_images(Any8(radius=radius), clean, delta)
    assert released.dtype == torch.uint8
    change = (released.int() - clean.int()).abs().max()
    assert int(change) <= radius * 255 + 1e-6


def test_a_noise_on_the_border_of_its_budget_is_released_whole() -> None:
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    for radius in (4, 8, 16, 32):
        images = clean.float() / 255
        delta = (images - radius / 255).clamp(0, 1) - images  # as float32 arithmetic leaves it
        released = audit.release_images(Any8(radius=radius / 255), clean, delta)
        assert released.unique().tolist() == [100 - radius]


def test_signs_are_kept_and_sums_do_not_wrap() -> None:
    clean = torch.tensor([0, 3, 250, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    up = audit.release_images(Any8(radius=8 / 255), clean, torch.full(clean.shape, 8 / 255))
    down = audit.release_images(Any8(radius=8 / 255), clean, torch.full(clean.shape, -8 / 255))
    assert up.flatten().tolist() == [8, 11, 255, 255]
    assert down.flatten().tolist() == [0, 0, 242, 247]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (None, "returned NoneType, not a tensor"),
        (torch.zeros(6, 3, 12), r"returned shape \(6, 3, 12\), not \(6, 3, 12, 12\)"),
        (torch.zeros(6, 3, 12, 12, dtype=torch.int64), "returned torch.int64, not floating point, int8 or int16"),
        (torch.full((6, 3, 12, 12), math.nan), "returned NaN or infinite values; all values must be finite"),
        (torch.full((6, 3, 12, 12), math.inf), "returned NaN or infinite values; all values must be finite"),
        (torch.full((6, 3, 12, 12), 8.01 / 255), "returned 8.01/255, over its budget 8/255"),
    ],
)
def test_a_noise_that_breaks_the_contract_is_refused_by_name(delta: Any, expected: str) -> None:
    with pytest.raises(ContractError, match=f"noise any .*{expected}"):
        audit.release_images(Any8(), pixels(), delta)


def noise_of_size(norm: str, size: float, count: int = 6) -> torch.Tensor:
    """Return noises, only the last of them not small, which has that size in the norm's unit; exact in float64."""
    delta = torch.zeros(count, 3, 4, 4, dtype=torch.float64)
    if norm == "linf":
        delta[-1] = size
    elif norm == "l2":
        delta[-1] = size / math.sqrt(48)
    elif norm == "l0":
        delta[-1, 1].view(-1)[: int(size)] = 0.5
        delta[-1, 2].view(-1)[: int(size)] = -1.0  # the same pixels
    return delta


@pytest.mark.parametrize(
    ("norm", "radius", "over", "message"),
    [
        ("linf", 8 / 255, 9 / 255, "returned 9/255, over its budget 8/255"),
        ("linf", 8 / 255, 8.0003 / 255, r"returned 8.000[23]\d*/255, over its budget 8(\.0000000\d)?/255"),
        ("linf", 0.0, 1 / 255, "returned 1/255, over its budget 0/255"),
        ("l2", 1.3, 1.31, r"returned 1.31 \(l2\), over its budget 1.3 \(l2\)"),
        ("l2", 1.3, 1.3001, r"returned 1.300[01]\d* \(l2\), over its budget 1.3 \(l2\)"),
        ("l2", 0.0, 0.25, r"returned 0.25 \(l2\), over its budget 0 \(l2\)"),
        ("l0", 5, 6, "returned 6 pixels, over its budget 5 pixels"),
        ("l0", 0, 1, "returned 1 pixels, over its budget 0 pixels"),
    ],
)
def test_each_norm_is_held_to_and_refused_in_its_own_unit(norm: Any, radius: float, over: float, message: str) -> None:
    clean = torch.full((6, 3, 4, 4), 100, dtype=torch.uint8)
    noise = Bounded(norm=norm, radius=radius)
    with pytest.raises(ContractError, match=f"^noise bounded {message}$"):
        audit.release_images(noise, clean, noise_of_size(norm, over))
    on_it = noise_of_size(norm, radius)
    for dtype in (torch.float64, torch.float32):
        released = audit.release_images(noise, clean, on_it.to(dtype))
        assert audit.budget_excess(noise.budget((3, 4, 4)), (released.double() - clean) / 255) <= 1 + 1e-6
        assert bool((released != clean).any()) is (radius > 0)


@pytest.mark.parametrize(
    ("norm", "radius", "size", "share"),
    [
        ("linf", 0.1, 0.05, 0.5),
        ("l2", 2.0, 3.0, 1.5),
        ("l0", 5, 10, 2.0),
        ("none", math.inf, 0.0, 0.0),
        ("linf", 0.0, 0.0, 0.0),
        ("l2", 0.0, 1.0, math.inf),
        ("linf", math.inf, 0.5, 0.0),
    ],
)
def test_excess_is_a_multiple_of_the_budget_of_the_largest_noise(
    norm: Any, radius: float, size: float, share: float
) -> None:
    assert audit.budget_excess(Budget(norm, radius), noise_of_size(norm, size)) == pytest.approx(share)
    assert audit.budget_excess(Budget(norm, radius), torch.empty(0, 3, 4, 4)) == 0


def test_a_noise_without_a_bound_may_be_anything_and_is_cut_where_pixels_end() -> None:
    clean = torch.full((1, 3, 1, 2), 100, dtype=torch.uint8)
    for scale in (1.0, 200.0, 1e6):
        delta = torch.tensor([scale, -scale]).expand(1, 3, 1, 2)
        released = audit.release_images(Bounded(norm="none"), clean, delta)
        assert released.unique().tolist() == [0, 255]
        assert released[0, 0, 0].tolist() == [255, 0]
    most = torch.tensor([32767, -32768], dtype=torch.int16).expand(1, 3, 1, 2)
    assert audit.release_images(Bounded(norm="none"), clean, most)[0, 0, 0].tolist() == [255, 0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
def test_whole_steps_are_taken_as_they_are(norm: Any) -> None:
    clean = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
    for dtype, most in ((torch.int8, 127), (torch.int16, 200)):
        steps = torch.randint(-most, most + 1, clean.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        size = audit.budget_excess(Budget(norm, 1.0), steps.double() / 255)
        released = audit.release_images(Bounded(norm=norm, radius=size), clean, steps)
        assert torch.equal(released, (128 + steps.int()).clamp(0, 255).to(torch.uint8))
        if norm != "none":
            with pytest.raises(ContractError, match="over its budget"):
                audit.release_images(Bounded(norm=norm, radius=size * 0.99), clean, steps)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_other_types_of_numbers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ContractError, match=f"returned {dtype}, not floating point, int8 or int16"):
        audit.release_images(Any8(), pixels(), torch.zeros(6, 3, 12, 12, dtype=dtype))


@pytest.mark.parametrize("side", [8, 224])
def test_a_noise_scaled_to_its_l2_ball_in_float32_is_within_it(side: int) -> None:
    """The norm of many values is off by more than that of few; still none of them is over the budget."""
    radius = 8 / 255 * math.sqrt(3 * side * side)
    delta = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    delta = delta * (radius / delta.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    clean = torch.full(delta.shape, 128, dtype=torch.uint8)
    released = audit.release_images(Bounded(norm="l2", radius=radius), clean, delta)
    norms = ((released.double() - 128) / 255).flatten(1).norm(dim=1)
    assert bool((norms <= radius * (1 + 1e-6)).all())
    assert bool((norms > radius * 0.995).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
@pytest.mark.parametrize("chunk", [1, 3 * 12 * 12 * 2 + 5, 3 * 12 * 12 * 4])
def test_the_size_of_a_chunk_changes_no_byte(norm: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = pixels(7)
    delta = torch.randn(7, 3, 12, 12, generator=torch.Generator().manual_seed(2)) / 20
    noise = Bounded(norm=norm, radius=audit.budget_excess(Budget(norm, 1.0), delta))
    whole, seen = (
        audit.release_images(noise, clean, delta),
        audit.measure_visibility(clean, pixels(7).flip(0), torch.device("cpu")),
    )
    monkeypatch.setattr(audit, "CHUNK_VALUES", chunk)
    assert len(audit.split_into_chunks(7, 3 * 12 * 12)) == math.ceil(7 / max(1, chunk // 432)) > 1
    assert torch.equal(audit.release_images(noise, clean, delta), whole)
    apart = audit.measure_visibility(clean, pixels(7).flip(0), torch.device("cpu"))
    assert apart == pytest.approx(seen, rel=1e-6)
    assert torch.equal(clean, pixels(7))


@pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_found_in_the_last_chunk_too(
    norm: Any, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CHUNK_VALUES", 2 * 3 * 4 * 4)
    delta = torch.zeros(7, 3, 4, 4)
    delta[6, 2, 3, 3] = wrong
    with pytest.raises(ContractError, match="noise bounded returned NaN or infinite values; all values must be finite"):
        audit.release_images(Bounded(norm=norm, radius=48.0), torch.zeros(7, 3, 4, 4, dtype=torch.uint8), delta)


def test_a_noise_over_its_budget_is_found_in_the_last_chunk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "CHUNK_VALUES", 2 * 3 * 4 * 4)
    with pytest.raises(ContractError, match="returned 3 pixels, over its budget 2 pixels"):
        audit.release_images(
            Bounded(norm="l0", radius=2.0), torch.zeros(7, 3, 4, 4, dtype=torch.uint8), noise_of_size("l0", 3, 7)
        )


@pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
def test_a_radius_of_zero_is_the_clean_set(norm: Any) -> None:
    clean = pixels()
    for dtype in (torch.float32, torch.int8):
        delta = torch.zeros(clean.shape, dtype=dtype)
        assert torch.equal(audit.release_images(Bounded(norm=norm, radius=0.0), clean, delta), clean)


@pytest.mark.parametrize("size", [8, 12, 32])
def test_visibility_equals_an_independent_measurement(size: int) -> None:
    clean = pixels(4, size)
    change = torch.randint(-8, 9, clean.shape, generator=torch.Generator().manual_seed(1))
    released = (clean.int() + change).clamp(0, 255).to(torch.uint8)
    found = audit.measure_visibility(clean, released, torch.device("cpu"))
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
    assert audit.measure_visibility(clean, clean, torch.device("cpu")) == {
        "noise_linf": 0,
        "noise_l2": 0,
        "psnr": None,
        "ssim": 1,
    }
