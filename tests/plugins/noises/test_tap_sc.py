"""TAP and SC: targeted adversarial examples of a clean network, and codes on a grid, compared with their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import RADIUS, HostContext, RecordingNetwork, data, surrogate, views
from uebench import Noise, UserError, kit
from uebench.authoring.check import assert_contract
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench_plugins.noises.sc import SC, SCLinf
from uebench_plugins.noises.tap import TAP, shift_and_flip
from uebench_plugins.targets.smallcnn import SmallCNN

VICTIM = SmallCNN(width=4)


class NoAugmentation(HostContext):
    """A context without augmentation."""

    def augment(self, images: Tensor) -> Tensor:
        return images


def losses(net: torch.nn.Module, images: Tensor, delta: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the loss of 8-bit images for the next class, and for the true class."""
    with kit.frozen(net):
        logits = net((images + delta / 255).clamp(0, 1).mul(255).round().div(255))
    return float(F.cross_entropy(logits, (labels + 1) % 4)), float(F.cross_entropy(logits, labels))


def test_tap_lowers_the_loss_of_the_next_class_and_raises_that_of_the_true_class() -> None:
    net, (images, labels) = surrogate(), data(24)
    noise = TAP(radius=RADIUS, victim=VICTIM, noise_steps=40, noise_step=0.1, batch=8)
    delta = noise.make(images, labels, HostContext(net))
    before, after = losses(net, images, torch.zeros_like(images), labels), losses(net, images, delta, labels)
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_the_last_class_is_followed_by_the_first() -> None:
    net, (images, labels) = surrogate(), data(8)
    labels = torch.full_like(labels, 3)
    delta = TAP(radius=RADIUS, victim=VICTIM, noise_steps=40, noise_step=0.1).make(images, labels, HostContext(net))
    assert losses(net, images, delta, labels)[0] < losses(net, images, torch.zeros_like(images), labels)[0]


def test_tap_steps_equal_the_algorithm_in_plain_steps() -> None:
    """With a matrix for the augmentation, the chain rule in full, and saturated pixels."""
    net, (images, labels) = surrogate(), data()
    noise = TAP(radius=RADIUS, victim=VICTIM, noise_steps=3, noise_step=0.3)
    torch.manual_seed(5)
    with kit.frozen(net):
        computed = noise.descend(net, images, labels, HostContext())
    torch.manual_seed(5)
    delta = torch.empty_like(images).uniform_(-RADIUS, RADIUS)
    net.eval()
    for _ in range(3):
        protected = images + delta
        view, matrix = views(protected.clamp(0, 1))
        view.requires_grad_(True)
        (view_gradient,) = torch.autograd.grad(F.cross_entropy(net(view), labels), view)
        gradient = torch.einsum("bij,bci->bcj", matrix, view_gradient.flatten(2)).view_as(images)
        gradient = gradient * ((protected >= 0) & (protected <= 1))
        delta = (delta - 0.3 * RADIUS * gradient.sign()).clamp(-RADIUS, RADIUS)
    assert torch.allclose(computed, delta, atol=1e-12)


def test_tap_requests_a_network_trained_on_the_clean_set_and_does_not_change_it() -> None:
    images, labels = data()
    net = RecordingNetwork(VICTIM.build((3, 6, 6), 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    context = HostContext(net)
    noise = TAP(radius=RADIUS, victim=VICTIM, noise_steps=2, batch=8)
    noise.make(images.float(), labels, context)
    assert context.requested == (VICTIM, True)
    assert list(noise.victims()) == [VICTIM]
    assert not net.trained_on
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_tap_passes_equal_those_of_the_papers_settings() -> None:
    """250 per batch; with 391 batches of CIFAR, 97 750 as in the published setting."""
    images, labels = data()
    net = RecordingNetwork(SmallCNN(width=1).build((3, 6, 6), 4))
    TAP(victim=VICTIM, batch=4).make(images.float(), labels, HostContext(net))
    assert len(net.attacked) == 3 * 250
    assert TAP(victim=VICTIM).passes(391 * 128) == {VICTIM: 128 * 97_750}


@pytest.mark.parametrize("order", [(3.0, 1.0, 2.0), (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)])
def test_the_start_with_the_lowest_loss_over_the_set_is_kept(
    order: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = data()
    values = iter([value for value in order for _ in range(2)])

    def descend(self: TAP, network: Any, x: Tensor, y: Tensor, context: Any) -> Tensor:
        used.append(next(values))
        return torch.full_like(x, used[-1] / 255)

    used: list[float] = []
    monkeypatch.setattr(TAP, "descend", descend)
    monkeypatch.setattr(TAP, "loss", lambda self, network, x, y: torch.tensor(used[-1]))
    delta = TAP(radius=RADIUS, victim=VICTIM, restarts=3, batch=8).make(images, labels, HostContext())
    assert delta.unique().tolist() == [1]


@pytest.mark.parametrize(("start", "share"), [("uniform", 0.0), ("gaussian", 2 * 0.1587)])
def test_tap_starts_from_uniform_noise_or_from_clipped_gaussian_noise(start: Any, share: float) -> None:
    images, labels = torch.full((64, 3, 6, 6), 0.5), torch.zeros(64, dtype=torch.int64)
    noise = TAP(radius=RADIUS, victim=VICTIM, start=start, noise_steps=1, noise_step=1e-9)
    net = VICTIM.build((3, 6, 6), 4)
    with kit.frozen(net):
        delta = noise.descend(net, images, labels, HostContext())
    assert float((delta.abs() > RADIUS - 1e-6).float().mean()) == pytest.approx(share, abs=0.02)


def shift_by_grid_sampling(images: Tensor, max_shift: float) -> Tensor:
    """Return the views of the official code, whose grid has the centres of the outermost pixels at -1 and 1."""
    count, _, height, width = images.shape
    down, right = (torch.rand(2, count, 1, dtype=images.dtype) * 2 - 1) * max_shift
    mirrored = torch.rand(count, 1) < 0.5
    grid = torch.zeros(count, height, width, 2, dtype=images.dtype)
    for image in range(count):
        for row in range(height):
            for column in range(width):
                x = -1 + 2 * column / (width - 1)
                x = -x if mirrored[image] else x
                grid[image, row, column, 0] = x + 2 * float(right[image]) / (width - 1)
                grid[image, row, column, 1] = -1 + 2 * (row + float(down[image])) / (height - 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


@pytest.mark.parametrize("max_shift", [0.5, 4.0, 9.0])
def test_views_are_shifted_by_fractions_of_a_pixel_as_grid_sampling_does(max_shift: float) -> None:
    images = torch.rand(16, 3, 6, 8, dtype=torch.float64)
    torch.manual_seed(3)
    shifted = shift_and_flip(images, max_shift)
    torch.manual_seed(3)
    assert torch.allclose(shifted, shift_by_grid_sampling(images, max_shift), atol=1e-12)
    assert 0 <= float(shifted.min()) <= float(shifted.max()) <= 1


def test_shifts_are_uniform_up_to_their_bound_and_half_of_the_views_are_mirrored() -> None:
    """A bright column shows the shift, and a ramp from black to white shows the mirroring."""
    torch.manual_seed(0)
    images = torch.zeros(4000, 1, 21, 21)
    images[..., 10] = 1.0
    shifted = shift_and_flip(images, 4.0)[:, 0, 10]
    distances = (shifted * torch.arange(21)).sum(1) / shifted.sum(1) - 10
    assert float(distances.abs().max()) == pytest.approx(4, abs=0.02)
    assert float(distances.mean()) == pytest.approx(0, abs=0.15)
    assert float(distances.std()) == pytest.approx(8 / math.sqrt(12), rel=0.03)
    ramp = shift_and_flip(torch.linspace(0, 1, 21).expand(4000, 1, 21, 21), 4.0)[:, 0, 10]
    assert float((ramp[:, 12] < ramp[:, 8]).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shift", [0.0, 1.7])
def test_taps_official_steps_equal_the_algorithm_in_plain_steps(shift: float) -> None:
    """Gaussian start, one view per step, and noise clipped to the ball and to the valid range after each step."""
    net, (images, labels) = surrogate(), data()
    noise = TAP(
        radius=RADIUS, victim=VICTIM, noise_steps=4, noise_step=0.3, start="gaussian", shift=shift, in_range=True
    )
    torch.manual_seed(5)
    with kit.frozen(net):
        computed = noise.descend(net, images, labels, HostContext())
    torch.manual_seed(5)
    delta = torch.empty_like(images).normal_(0, RADIUS).clamp(-RADIUS, RADIUS)
    net.eval()
    for _ in range(4):
        point = (images + delta).clamp(0, 1).requires_grad_(True)
        if shift:
            view = shift_by_grid_sampling(point, shift)
        else:
            _, matrix = views(point.detach())
            view = torch.einsum("bij,bcj->bci", matrix, point.flatten(2)).view_as(images)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(view), labels, reduction="sum"), point)
        delta = (delta - 0.3 * RADIUS * gradient.sign()).clamp(-RADIUS, RADIUS)
        delta = torch.minimum(torch.maximum(delta, -images), 1 - images)
    assert torch.allclose(computed, delta, atol=1e-12)
    assert float((images + computed).min()) >= 0
    assert float((images + computed).max()) <= 1 + 1e-12


def test_a_pixel_at_the_end_of_its_range_still_changes() -> None:
    """A rounding error can put x + noise outside the range, where a clamp has no gradient."""
    images = torch.rand(64, 3, 6, 6) * 0.1 + 0.9
    labels = torch.zeros(64, dtype=torch.int64)
    net = VICTIM.build((3, 6, 6), 4)
    noise = TAP(radius=RADIUS, victim=VICTIM, noise_steps=60, noise_step=0.5, in_range=True)

    class ChangingDirection(torch.nn.Module):
        """Has a loss that first favours light pixels, and dark pixels after 30 calls."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = net, 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            light = images.mean((1, 2, 3)) * (1 if self.calls < 30 else -1)
            return torch.stack([100 * light, torch.zeros_like(light)], dim=1)

    torch.manual_seed(0)
    with kit.frozen(net):
        delta = noise.descend(ChangingDirection(), images, labels, NoAugmentation())
    assert torch.allclose(delta, torch.full_like(delta, -RADIUS), atol=1e-6)


def test_published_keys_of_tap_are_unchanged() -> None:
    build = registry().build
    text = "tap@1:radius=0.03137254901960784,victim=({})," + (
        "noise_steps=250,noise_step=0.008,restarts=1,start=uniform,batch=128"
    )
    victim = canonical_text(build("target", "smallcnn"))
    assert canonical_text(build("noise", "tap:victim=smallcnn")) == text.format(victim)
    official = build("noise", "tap:victim=smallcnn,shift=4,in_range=true")
    assert canonical_text(official) == f"{text.format(victim)},shift=4.0,in_range=true"


def test_the_official_variant_keeps_the_contract() -> None:
    official = "restarts=2,start=gaussian,noise_step=0.05,shift=4,in_range=true,batch=8,noise_steps=3"
    assert_contract(f"tap:{official},victim=(smallcnn:width=4)")


def grey_images(per_class: list[int], size: int = 32) -> tuple[Tensor, Tensor]:
    """Return grey images and shuffled labels with these numbers of images per class."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(per_class)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return torch.full((len(labels), 3, size, size), 0.5), labels


def test_sc_is_a_code_repeated_over_patches_with_the_published_norm() -> None:
    images, labels = grey_images([30] * 4)
    delta = SC().make(images, labels, HostContext()).float()
    patches = delta.unflatten(2, (4, 8)).unflatten(4, (4, 8))
    assert torch.equal(patches, patches[:, :, :, :1, :, :1].expand_as(patches)), "one value per patch"
    norms = (delta / 255).flatten(1).norm(dim=1)
    limit = 6 / 255 * math.sqrt(3 * 32 * 32)
    assert limit == pytest.approx(1.30, abs=0.005), "the value that the reference gives for 6/255"
    assert bool((norms <= limit * (1 + 1e-6)).all())
    assert bool((norms > limit * 0.96).all())
    assert float(delta.abs().max()) > 12, "single values can exceed the radius"


def test_codes_of_a_class_are_near_its_corner_and_linearly_separable() -> None:
    _, labels = grey_images([40] * 4)
    codes = SC().draw_codes(labels, HostContext(), (3, 32, 32)).flatten(1)
    assert codes.shape == (160, 48)
    centres = torch.stack([codes[labels == label].mean(0) for label in range(4)])
    assert float(centres.abs().mean()) == pytest.approx(10, rel=0.1)
    corners = centres.sign()
    assert len(corners.unique(dim=0)) == 4
    nearest = torch.cdist(codes, centres).argmin(1)
    assert torch.equal(nearest, labels)
    deviations = codes - centres[labels]
    assert 1 < float(deviations.std()) < 10, "codes have a Gaussian distribution around the corner"


def test_classes_of_different_size_get_a_code_for_every_image() -> None:
    _, labels = grey_images([3, 50, 11, 1])
    codes = SC().draw_codes(labels, HostContext(), (3, 32, 32)).flatten(1)
    assert len(codes.unique(dim=0)) == len(labels)


def test_sc_linf_is_sc_clipped_to_the_ball() -> None:
    images, labels = grey_images([10] * 4)
    sc, sc_linf = SC(radius=8 / 255), SCLinf(radius=8 / 255)
    codes = sc.draw_codes(labels, HostContext(), (3, 32, 32))
    assert torch.equal(
        sc_linf.expand_codes(codes, (3, 32, 32)), sc.expand_codes(codes, (3, 32, 32)).clamp(-8 / 255, 8 / 255)
    )
    delta = sc_linf.make(images, labels, HostContext())
    assert int(delta.abs().max()) == 8
    assert delta.dtype == torch.int8


def test_sc_accepts_sides_that_are_not_multiples_of_the_patch_and_refuses_large_patches() -> None:
    images, labels = grey_images([5] * 4, size=20)
    assert SC().make(images, labels, HostContext()).shape == (20, 3, 20, 20)
    images, labels = grey_images([5] * 4, size=8)

    class TenClasses(HostContext):
        classes = 10

    with pytest.raises(UserError, match="sc: patch=8 gives 3 values for an image of 8x8, too few corners for 10"):
        SC().make(images, labels, TenClasses())


def test_codes_depend_on_the_seed() -> None:
    class OtherSeed(HostContext):
        seed = 8

    images, labels = grey_images([5] * 4)
    noise: Noise = SC()
    first, second, other = (noise.make(images, labels, context()) for context in (HostContext, HostContext, OtherSeed))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
