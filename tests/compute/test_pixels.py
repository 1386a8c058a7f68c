"""Between floats and eight bits: rounding within every norm, and sets that come batch by batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uebench import Budget, kit
from uebench.compute import pixels

CPU = torch.device("cpu")
VALUES = st.one_of(
    st.floats(-1, 1),
    st.integers(-510, 510).map(lambda half: half / 510),  # whole and half steps
    st.sampled_from([0.0, 1e-30, -1e-9, 0.5 / 255, -1.5 / 255, 2.5 / 255, 1.0, -1.0]),
)


@pytest.mark.parametrize(
    ("most", "dtype"), [(1, torch.int8), (127, torch.int8), (128, torch.int16), (255, torch.int16)]
)
def test_the_integers_are_as_small_as_the_radius_allows(most: int, dtype: torch.dtype) -> None:
    steps = kit.to_steps(torch.tensor([[1.0, -1.0, most / 255, -most / 255]]), most / 255)
    assert steps.dtype == dtype
    assert steps.tolist() == [[most, -most, most, -most]]
    assert kit.blank(torch.zeros(2, 3, 4, 4), most / 255).dtype == dtype
    assert kit.to_steps(torch.ones(1, 1), Budget("linf", most / 255)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
def test_rounding_is_to_the_nearest_where_the_budget_allows(norm: str, dtype: torch.dtype) -> None:
    steps = torch.tensor([[-8.0, -3.6, -0.4, 0.6, 7.9, 0.0]], dtype=dtype)
    found = kit.to_steps(steps / 255, Budget(norm))  # type: ignore[arg-type]
    assert found.tolist() == [[-8, -4, 0, 1, 8, 0]]
    assert found.dtype == torch.int16
    assert kit.blank(steps, Budget(norm)).dtype == torch.int16  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [Budget("none"), Budget("l0", 3), Budget("l2"), Budget("linf"), Budget("linf", 1.0)])
def test_a_noise_beyond_the_range_of_pixels_is_cut_and_does_not_turn_over(budget: Budget) -> None:
    delta = torch.tensor([[200.0, -200.0, 1e9, -1.5, 1.0, 0.5]])
    assert kit.to_steps(delta, budget).tolist() == [[255, -255, 255, -255, 255, 128]]


def in_ball(values: list[list[float]], share: float) -> tuple[Tensor, float]:
    """Return rows of a noise and an L2 radius that all of them keep, the longest by so little as `share` says."""
    rows = torch.tensor(values, dtype=torch.float64)
    return rows, float(rows.norm(dim=1).max()) * share


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 12).flatmap(
        lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=4)
    ),
    st.sampled_from([1.0, 1.0, 1.0001, 1.05, 1.5]),
)
def test_rounding_keeps_the_l2_ball_and_takes_back_what_it_must(values: list[list[float]], share: float) -> None:
    """Those that rounding moved away from zero by most go back, as many as needed, and equals together."""
    delta, radius = in_ball(values, share)
    found = kit.to_steps(delta, Budget("l2", radius))
    assert found.dtype == torch.int16
    limit = radius * 255 * (1 + 1e-6)
    for row, steps in zip((delta * 255).tolist(), found.tolist(), strict=True):
        assert math.sqrt(sum(step**2 for step in steps)) <= limit
        nearest, lower = [round(value) for value in row], [math.trunc(value) for value in row]
        if math.sqrt(sum(step**2 for step in nearest)) <= limit:
            assert steps == nearest
            continue
        assert all(step in pair for step, *pair in zip(steps, nearest, lower, strict=True))
        away = {place for place, value in enumerate(row) if abs(nearest[place]) > abs(value)}
        back = {place for place in away if steps[place] != nearest[place]}
        assert back
        assert [step for place, step in enumerate(steps) if place not in away] == [
            step for place, step in enumerate(nearest) if place not in away
        ]
        by = {place: abs(nearest[place] - row[place]) for place in away}
        least = min(by[place] for place in back)
        assert all(by[place] < least for place in away - back), "one that had been moved by more stayed, or an equal"
        last = {place for place in back if by[place] == least}
        kept = [nearest[place] if place in last else step for place, step in enumerate(steps)]
        assert math.sqrt(sum(step**2 for step in kept)) > limit, "more than needed went back"


@given(st.floats(1e-9, 1), st.lists(VALUES, min_size=1, max_size=20))
def test_rounding_keeps_any_l_inf_ball(radius: float, values: list[float]) -> None:
    found = kit.to_steps(torch.tensor([values], dtype=torch.float64), radius)[0].tolist()
    for value, step in zip(values, found, strict=True):
        assert abs(step) <= radius * 255 + 1e-6
        assert step == round(255 * value) or abs(step) == math.floor(radius * 255 + 1e-6) < abs(round(255 * value))


def test_equal_values_of_an_image_stay_equal_in_the_l2_ball() -> None:
    """A code repeated over patches must not be torn: all of its equals go back, or none."""
    delta = torch.full((1, 3, 8, 8), 1.6 / 255)
    delta[:, :, :4] = -2.9 / 255
    radius = float(delta.double().flatten(1).norm())
    found = kit.to_steps(delta, Budget("l2", radius))
    assert found[:, :, 4:].unique().tolist() == [1]
    assert found[:, :, :4].unique().tolist() == [-3]
    assert float((found / 255).double().norm()) <= radius


def test_images_are_rounded_apart_and_without_noise_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    delta = torch.randn(5, 3, 4, 4, generator=draw) / 100
    delta[2] = 0
    budget = Budget("l2", float(delta.flatten(1).double().norm(dim=1).median()))
    whole = kit.to_steps(delta, budget)
    assert torch.equal(whole, torch.cat([kit.to_steps(one[None], budget) for one in delta]))
    for values in (1, 2 * 48 + 7):
        monkeypatch.setattr(pixels, "VALUES", values)
        assert torch.equal(kit.to_steps(delta, budget), whole)
    assert kit.to_steps(delta[:0], budget).shape == (0, 3, 4, 4)
    assert not whole[2].any()
    assert torch.equal(kit.to_steps(delta.contiguous(memory_format=torch.channels_last), budget), whole)
    assert not kit.to_steps(delta, Budget("l2", 0.0)).any()
    assert not kit.to_steps(delta, 0.0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_and_float64_noises_on_the_border_of_the_l2_ball_keep_it(dtype: torch.dtype) -> None:
    delta = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    radius = 8 / 255 * math.sqrt(3 * 32 * 32)
    delta = delta * (radius / delta.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    norms = kit.to_steps(delta, Budget("l2", radius)).double().flatten(1).norm(dim=1) / 255
    assert bool((norms <= radius * (1 + 1e-6)).all())
    assert bool((norms > radius * 0.9999).all()), "as much of the budget is used as whole steps allow"


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.3, 0.999])
def test_a_noise_outside_its_ball_is_projected_onto_it(share: float) -> None:
    delta = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) / 10
    delta[3] = 0
    radius = share * float(delta.double().flatten(1).norm(dim=1).max())
    found = kit.to_steps(delta, Budget("l2", radius)).double().flatten(1) / 255
    assert bool((found.norm(dim=1) <= radius * (1 + 1e-6)).all())
    if share >= 0.3:
        longest = int(delta.flatten(1).norm(dim=1).argmax())
        assert float(torch.cosine_similarity(found[longest], delta[longest].flatten().double(), dim=0)) > 0.99
        assert float(found[longest].norm()) > radius * 0.98
    most = math.floor(share * 25.5 + 1e-6)
    assert torch.equal(kit.to_steps(delta, share / 10), (delta * 255).round().clamp(-most, most).to(torch.int8))


def test_quantise_is_to_steps_in_floats() -> None:
    delta = torch.linspace(-0.2, 0.2, 41)
    assert torch.equal(kit.quantise(delta, 0.1), kit.to_steps(delta, 0.1).float() / 255)
    assert kit.quantise(delta, 0.1).dtype == torch.float32


def stored(count: int = 10) -> Tensor:
    return torch.randint(0, 256, (count, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(2, 7), slice(8, 99), torch.tensor([3, 0, 0, 9]), torch.arange(10) % 2 == 0],
    ids=["all", "slice", "end", "index", "mask"],
)
def test_pixels_gives_batches_as_floats_and_keeps_what_it_holds(index: slice | Tensor) -> None:
    images, given = stored(), stored()
    kept = kit.Pixels(images, CPU)
    batch = kept[index]
    assert torch.equal(batch, kit.to_float(given[index]))
    assert batch.dtype == torch.float32
    assert kept.shape == given.shape
    assert len(kept) == 10
    batch.fill_(0.5)
    assert torch.equal(images, given)
    assert torch.equal(kept[index], kit.to_float(given[index]))


def test_blank_is_nothing_where_the_set_is_kept() -> None:
    for images in (kit.Pixels(stored(), CPU), kit.to_float(stored())):
        for budget, dtype in ((8 / 255, torch.int8), (0.6, torch.int16), (Budget("l2", 1.0), torch.int16)):
            delta = kit.blank(images, budget)
            assert delta.shape == (10, 3, 4, 5)
            assert delta.dtype == dtype
            assert delta.device == CPU
            assert not delta.any()
            assert delta.is_contiguous()


def test_blank_follows_the_set_and_not_the_device() -> None:
    assert kit.blank(kit.Pixels(stored().to("meta"), CPU), 0.1).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the host")
def test_images_on_the_host_come_on_the_device() -> None:
    images, device = stored(), torch.device("cuda", 0)
    kept = kit.Pixels(images, device)
    expected = kit.to_float(images.to(device)).cpu()  # a GPU multiplies by 1/255, which rounds otherwise
    for index in (slice(2, 5), torch.tensor([4, 1], device=device), torch.tensor([4, 1])):
        batch = kept[index]
        assert batch.device == device
        place = index.cpu() if isinstance(index, Tensor) else index
        assert torch.equal(batch.cpu(), expected[place])
    assert kit.blank(kept, 0.1).device == CPU
    assert kit.blank(kit.Pixels(images.to(device), device), 0.1).device == device
