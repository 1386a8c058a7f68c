"""Mixing, augmentation, colour, projection and UEraser, compared with independent computations of their methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms.v2 import functional as T

from tests.compute.test_train import Broken, learn, same_weights
from uebench import Breaker, UserError, kit
from uebench.authoring.fake_device import DEVICE, simulated_device
from uebench.compute.train import build_network
from uebench.jobs.training_set import apply_filters
from uebench.storage.store import Store
from uebench_plugins.breakers import ueraser
from uebench_plugins.breakers.colour import Colour
from uebench_plugins.breakers.cutout import Cutout
from uebench_plugins.breakers.mixing import CutMix, Mixup
from uebench_plugins.breakers.orthogonal import OrthogonalProjection, remove_directions
from uebench_plugins.breakers.plasma import plasma
from uebench_plugins.breakers.randaugment import RandAugment
from uebench_plugins.breakers.randaugment_ops import OPERATIONS, apply_operations
from uebench_plugins.breakers.ueraser import UEraser, draw_views
from uebench_plugins.targets.smallcnn import SmallCNN

NAMES = list(OPERATIONS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pictures(*shape: int) -> Tensor:
    """Return 8-bit images as floats, one half smooth and the other rough."""
    images = torch.randint(0, 256, shape)
    images[..., : shape[-1] // 2] = images[..., : shape[-1] // 2] // 4 + 60
    return images / 255


@pytest.mark.parametrize(
    "breaker", [Cutout(size=3), Mixup(), CutMix(), RandAugment(), UEraser(share=0.5)], ids=lambda breaker: breaker.name
)
def test_interrupted_training_ends_with_the_same_bits(breaker: Breaker, store: Store) -> None:
    uninterrupted, curve = learn(store, breaker)
    with pytest.raises(Broken):
        learn(store, breaker, dies_at=4)
    resumed, resumed_curve = learn(store, breaker)
    assert same_weights(uninterrupted, resumed)
    assert curve == resumed_curve


# Cutout, Mixup, CutMix


def test_cutout_blackens_one_square_around_any_pixel_clipped_at_the_border() -> None:
    images, targets = torch.ones(3000, 3, 8, 9), torch.rand(3000, 4)
    cut, cut_targets = Cutout(size=4).augment(images, targets)
    assert cut_targets is targets
    assert torch.equal(cut, cut[:, :1].expand_as(cut)), "the same in every channel"
    drawn = {tuple(image.flatten().tolist()) for image in cut[:, 0]}
    possible = set()
    for row in range(8):
        for column in range(9):
            image = torch.ones(8, 9)
            image[max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = 0
            possible.add(tuple(image.flatten().tolist()))
    assert len(possible) == 72
    assert drawn == possible


def test_cutout_with_an_odd_size_has_an_odd_side() -> None:
    cut, _ = Cutout(size=3).augment(torch.ones(200, 1, 9, 9), torch.zeros(200, 2))
    assert int((cut == 0).sum((1, 2, 3)).max()) == 9


def test_cutout_refuses_a_square_larger_than_the_image() -> None:
    with pytest.raises(UserError, match="cutout: size must be at most 8 on images of 8x9, not 16"):
        Cutout().augment(torch.ones(1, 3, 8, 9), torch.zeros(1, 2))


@pytest.mark.parametrize("chain", [[Mixup()], [Mixup(alpha=0.3), Mixup()]], ids=["once", "twice"])
def test_mixup_gives_images_and_targets_the_same_weights(chain: list[Breaker]) -> None:
    """Image i is zero except for pixel i and is the only image of its class, so pixels and targets are the weights."""
    images, targets = torch.eye(64).view(64, 1, 1, 64), torch.eye(64)
    for breaker in chain:
        images, targets = breaker.augment(images, targets)
    weights = images.flatten(1)
    assert torch.equal(weights, targets)
    assert torch.allclose(weights.sum(1), torch.ones(64))
    assert int((weights > 0).sum(1).max()) == 2 ** len(chain)
    assert len(weights.diagonal().unique()) > 50, "each image has a different weight"


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_mixup_draws_its_weights_from_the_beta_distribution(alpha: float) -> None:
    images = torch.eye(2000).view(2000, 1, 1, 2000)
    weights = Mixup(alpha=alpha).augment(images, images[:, 0, 0])[1].diagonal()
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(weights.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def encode_positions(count: int, side: int) -> Tensor:
    """Return images in which the value of each pixel encodes the index of the image and the position of the pixel."""
    positions = torch.arange(side * side).view(1, 1, side, side)
    return (torch.arange(count).view(-1, 1, 1, 1) * side * side + positions).float()


def test_cutmix_pastes_one_rectangle_at_its_position_and_weighs_the_targets_by_its_area() -> None:
    images = encode_positions(200, 16)
    mixed, targets = CutMix(probability=1).augment(images, torch.eye(200))
    owners = mixed.long() // 256
    assert torch.equal(mixed.long() % 256, torch.arange(256).view(1, 1, 16, 16).expand_as(mixed)), (
        "pixels keep their positions"
    )
    whole_rectangles = 0
    for index, (owner, target) in enumerate(zip(owners[:, 0], targets, strict=True)):
        counts = torch.bincount(owner.flatten(), minlength=200)
        assert torch.allclose(target, counts / 256)
        patch = owner != index
        rows, columns = patch.any(1), patch.any(0)
        assert torch.equal(patch, rows[:, None] & columns), "a rectangle"
        assert len(owner[patch].unique()) <= 1
        height, width = int(rows.sum()), int(columns.sum())
        is_inside = patch.any() and not (rows[0] or rows[-1] or columns[0] or columns[-1])
        whole_rectangles += bool(is_inside)
        assert not is_inside or height == width, "the proportions of the image"
    assert whole_rectangles > 20


def test_cutmix_weighs_soft_targets() -> None:
    images, soft = encode_positions(50, 8), torch.rand(50, 5).softmax(1)
    mixed, targets = CutMix(probability=1).augment(images, soft)
    for owner, target in zip(mixed.long()[:, 0] // 64, targets, strict=True):
        expected = torch.stack([soft[index] for index in owner.flatten()]).mean(0)
        assert torch.allclose(target, expected, atol=1e-6)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 0.38, 0.52), (1.0, 0.85, 1)])
def test_cutmix_mixes_images_with_its_probability(probability: float, low: float, high: float) -> None:
    """Fewer images change than are drawn: a rectangle may round to size 0, and an image may be its partner."""
    images = encode_positions(1000, 16)
    mixed, targets = CutMix(probability=probability).augment(images, torch.eye(1000))
    changed = (mixed != images).flatten(1).any(1)
    assert low <= float(changed.float().mean()) <= high
    assert torch.equal(changed, targets.diagonal() < 1)


# RandAugment


def apply_with_torchvision(name: str, image: Tensor, strength: float) -> Tensor:
    """Return the result of torchvision's functions for one image (c, h, w)."""
    height, width = image.shape[-2:]
    tangent = math.degrees(math.atan(0.3 * strength))

    def affine(shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        centre = [0, 0] if any(shear) else None
        moved: Tensor = T.affine(image, angle=0.0, translate=list(shift), scale=1.0, shear=list(shear), center=centre)
        return moved

    operations: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: image,
        "shear-x": lambda: affine(shear=(tangent, 0.0)),
        "shear-y": lambda: affine(shear=(0.0, tangent)),
        "shift-x": lambda: affine(shift=(int(150 / 331 * width * strength), 0)),
        "shift-y": lambda: affine(shift=(0, int(150 / 331 * height * strength))),
        "turn": lambda: T.rotate(image, 30 * strength),
        "brightness": lambda: T.adjust_brightness(image, 1 + 0.9 * strength),
        "colour": lambda: T.adjust_saturation(image, 1 + 0.9 * strength),
        "contrast": lambda: T.adjust_contrast(image, 1 + 0.9 * strength),
        "sharpness": lambda: T.adjust_sharpness(image, 1 + 0.9 * strength),
        "posterise": lambda: T.posterize(kit.to_bytes(image), 8 - round(4 * abs(strength))) / 255,
        "solarise": lambda: T.solarize(image, 1 - abs(strength)),
        "autocontrast": lambda: T.autocontrast(image),
        "equalise": lambda: T.equalize(image),
    }
    return operations[name]()


SHAPES = [(3, 32, 32), (3, 20, 28), (3, 36, 11), (1, 16, 16), (1, 9, 40), (3, 2, 5), (1, 1, 1)]
"""At most one side is odd. With two, a rotation by 30 degrees has sources midway between pixels: rounding decides."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_equals_torchvisions(name: str, shape: tuple[int, ...]) -> None:
    """On 8-bit images, on float images, and on channels with one value."""
    images = torch.cat([pictures(6, *shape), torch.rand(6, *shape), torch.rand(2, shape[0], 1, 1).expand(2, *shape)])
    strengths = torch.cat([torch.tensor([1.0, -1.0, 0.3, -0.3, 0.0, 0.07]), torch.empty(8).uniform_(-1, 1)])
    results = apply_operations(images, torch.full((14,), NAMES.index(name)), strengths)
    expected = [apply_with_torchvision(name, *pair) for pair in zip(images, strengths.tolist(), strict=True)]
    assert torch.allclose(results, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_image_of_a_batch_gets_the_operation_chosen_for_it(shape: tuple[int, ...]) -> None:
    images, chosen = pictures(42, *shape), torch.arange(14).repeat(3)[torch.randperm(42)]
    strengths = torch.empty(42).uniform_(-1, 1)
    before = images.clone()
    results = apply_operations(images, chosen, strengths)
    assert torch.equal(images, before), "the input is unchanged"
    for image, operation, strength, result in zip(images, chosen, strengths, results, strict=True):
        single = apply_operations(image[None], operation[None], strength[None])[0]
        assert torch.allclose(result, single, atol=1e-6)
        assert torch.allclose(result, apply_with_torchvision(NAMES[operation], image, float(strength)), atol=1e-5)


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations on the simulated device that launch a kernel or copy from the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        on_device = any(isinstance(leaf, Tensor) and leaf.device == DEVICE for leaf in tree_leaves(result))
        self.count += on_device and not operation.is_view and "empty" not in str(operation)
        return result


@pytest.mark.parametrize(
    ("step", "limit"),
    [(lambda images: RandAugment().augment(images, images), 120), (draw_views, 130)],
    ids=["two", "draw_views"],
)
def test_a_step_of_all_operations_launches_few_kernels(step: Callable[[Tensor], object], limit: int) -> None:
    """Kernel launches limit the step of a small network; one operation at a time needs three times as many."""
    with simulated_device() as device:
        images = torch.rand(512, 3, 32, 32).to(device)
        with Launches() as launches:
            step(images)
    assert limit / 2 < launches.count <= limit


def test_operations_refuse_other_numbers_of_channels() -> None:
    with pytest.raises(UserError, match="images must have 1 or 3 channels to be augmented by operations, not 4"):
        RandAugment().augment(torch.zeros(2, 4, 8, 8), torch.zeros(2, 2))


def test_randaugment_draws_operation_and_direction_for_each_image_at_its_magnitude() -> None:
    image, targets = pictures(3, 16, 16), torch.rand(600, 3)
    results, result_targets = RandAugment(operations=1, magnitude=9).augment(image.repeat(600, 1, 1, 1), targets)
    assert result_targets is targets
    candidates = torch.stack([apply_with_torchvision(name, image, sign * 0.3) for name in NAMES for sign in (1, -1)])
    distance = (results[:, None] - candidates).abs().amax((2, 3, 4))
    assert float(distance.min(1).values.max()) < 1e-5, "every image is the result of one operation"
    assert bool((distance < 1e-5).any(0).all()), "each operation occurs, in both directions"


def test_randaugment_applies_its_operations_one_after_the_other() -> None:
    image = pictures(3, 16, 16)
    results, _ = RandAugment(operations=2, magnitude=30).augment(image.repeat(300, 1, 1, 1), torch.zeros(300, 2))
    once = [apply_with_torchvision(name, image, sign) for name in NAMES for sign in (1, -1)]
    twice = torch.stack(
        [apply_with_torchvision(name, first, sign) for first in once for name in NAMES for sign in (1, -1)]
    )
    distance = (results[:, None] - twice).abs().amax((2, 3, 4)).min(1).values
    assert float((distance < 1e-4).float().mean()) > 0.97, "except for rounding in equalise"
    assert len(results.flatten(1).unique(dim=0)) > 60


# Colour


def test_normalised_channels_have_the_same_mean_and_deviation() -> None:
    images = 0.45 + 0.1 * torch.rand(6, 3, 32, 32)
    normalised = Colour().filter(images, torch.zeros(6))
    assert torch.allclose(normalised.mean((2, 3)), torch.full((6, 3), 0.5), atol=1e-5)
    assert torch.allclose(normalised.std((2, 3), correction=0), torch.full((6, 3), 0.25), atol=1e-5)
    gain, offset = torch.rand(6, 3, 1, 1) + 0.5, 0.2 * torch.rand(6, 3, 1, 1)
    assert torch.allclose(Colour().filter(gain * images + offset, torch.zeros(6)), normalised, atol=1e-4)


def test_a_channel_with_one_value_becomes_grey() -> None:
    images = (torch.arange(256) / 255).view(-1, 1, 1, 1).expand(256, 1, 32, 32)
    assert kit.to_bytes(Colour().filter(images, torch.zeros(256))).unique().tolist() == [128]


def test_equalised_channels_equal_pillows() -> None:
    images = pictures(4, 3, 20, 24)
    equalised = kit.to_bytes(Colour(method="equalise").filter(images, torch.zeros(4)))
    for channel, result in zip(kit.to_bytes(images).flatten(0, 1), equalised.flatten(0, 1), strict=True):
        assert np.array_equal(np.asarray(ImageOps.equalize(Image.fromarray(channel.numpy()))), result.numpy())


# Orthogonal projection


def measure_linear_accuracy(images: Tensor, labels: Tensor) -> float:
    """Fit a least-squares classifier to the first half of the set, and return its accuracy on the second half."""
    x = torch.cat([images.flatten(1), torch.ones(len(images), 1)], 1).double()
    y, half = F.one_hot(labels).double(), len(images) // 2
    penalty = 0.1 * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x[:half].T @ x[:half] + penalty, x[:half].T @ y[:half])
    return float(((x[half:] @ weights).argmax(1) == labels[half:]).float().mean())


def noisy_images() -> tuple[Tensor, Tensor]:
    """Return random uint8 images with a noise of 4/255 per class, and their labels; only the noise depends on them."""
    labels = torch.arange(6000) % 4
    images = 90 + 20 * torch.randn(6000, 3, 8, 8)
    noise = torch.randint(0, 2, (4, 3, 8, 8)) * 8 - 4
    return (images + noise[labels]).clamp(0, 255).to(torch.uint8), labels


def test_the_projection_removes_the_noise_of_classes_also_in_8_bits() -> None:
    images, labels = noisy_images()
    assert measure_linear_accuracy(images / 255, labels) > 0.9
    projected = apply_filters((OrthogonalProjection(batch=64),), images, labels, 0)
    assert measure_linear_accuracy(projected / 255, labels) < 0.3, "chance is 0.25"


def test_the_projection_needs_the_labels() -> None:
    images, labels = noisy_images()
    shuffled = labels[torch.randperm(len(labels))]
    projected = apply_filters((OrthogonalProjection(batch=64),), images, shuffled, 0)
    assert measure_linear_accuracy(projected / 255, labels) > 0.85


def test_the_projection_removes_exactly_the_span_of_the_weights() -> None:
    images, labels = noisy_images()
    weights = OrthogonalProjection(batch=64).train_classifier(images / 255, labels)
    assert weights.shape == (4, 192)
    projected = remove_directions(images / 255, weights)
    assert float((projected.flatten(1) @ weights.T).abs().max()) < 1e-4 * float(weights.norm(dim=1).max())
    removed = (images / 255 - projected).flatten(1)
    residual = removed.T - weights.T @ torch.linalg.lstsq(weights.T, removed.T).solution
    assert float(residual.abs().max()) < 1e-4, "the removed part is in the span of the weights"


def test_the_classifier_uses_gradient_descent_as_in_the_paper() -> None:
    """With one batch per epoch, every step is known: rate 1, then 0.1 after half of the epochs, 0.01 after 3/4."""
    images, labels = torch.rand(12, 1, 2, 2), torch.arange(12) % 3
    torch.manual_seed(7)
    trained = OrthogonalProjection(epochs=8, lr=1.0, batch=12).train_classifier(images, labels)
    torch.manual_seed(7)
    weights = nn.Linear(4, 3, bias=False).weight.detach().double()
    x, y = images.flatten(1).double(), F.one_hot(labels).double()
    for epoch in range(8):
        gradient = ((x @ weights.T).softmax(1) - y).T @ x / 12
        weights -= (1.0 if epoch < 4 else 0.1 if epoch < 6 else 0.01) * gradient
    assert torch.allclose(trained.double(), weights, atol=1e-6)


# UEraser


class Uncallable(nn.Module):
    """A network that must not be called."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the network was called")


class Counting(nn.Module):
    """A linear network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(192, 4), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.layer(images.flatten(1))
        return logits


@pytest.mark.parametrize("parts", [[1, 1, 1, 1, 1], [3, 2]], ids=["one by one", "several in a pass"])
@pytest.mark.parametrize("soft", [False, True])
def test_each_image_gets_the_hardest_of_its_views(
    soft: bool, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[Tensor] = []

    def record(images: Tensor) -> Tensor:
        drawn = draw_views(images)
        views.extend(drawn.split(30))
        return drawn

    monkeypatch.setattr(ueraser, "draw_views", record)
    monkeypatch.setattr(kit, "parts", lambda draws, images: parts)
    network = build_network(SmallCNN(width=4), (3, 8, 8), 4, "fp32", torch.device("cpu"), 0)
    network(torch.rand(64, 3, 8, 8))  # batch statistics that differ between the two modes
    images, labels = pictures(30, 3, 8, 8), torch.arange(30) % 4
    targets = F.one_hot(labels, 4) * 0.7 + 0.3 / 4 if soft else labels
    attacked = UEraser(mode="max").attack(network, images, targets, 0.9)
    assert len(views) == 5
    network.eval()
    distributions = F.one_hot(labels, 4) * 0.7 + 0.3 / 4 if soft else F.one_hot(labels, 4)
    losses = torch.stack([-(network(view).log_softmax(1) * distributions).sum(1) for view in views])
    hardest = losses.argmax(0)
    assert torch.equal(attacked, torch.stack([views[view][image] for image, view in enumerate(hardest)]))
    assert len(hardest.unique()) == 5, "the choice differs between images"


def test_lite_never_calls_the_network_and_standard_only_at_first() -> None:
    images, labels = pictures(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64)
    for breaker, progress in ((UEraser(mode="lite"), 0.0), (UEraser(), 1 / 6), (UEraser(share=0), 0.0)):
        assert breaker.attack(Uncallable(), images, labels, progress).shape == images.shape
    for breaker, progress in ((UEraser(), 0.16), (UEraser(mode="max"), 0.99), (UEraser(share=1), 0.99)):
        network = Counting()
        breaker.attack(network, images, labels, progress)
        assert network.calls == 5


def test_views_change_brightness_and_contrast_each_with_probability_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """With constant fractals of 3/4, brightness adds half of its intensity, and the contrast factor is 3."""
    roughness_values: list[Tensor] = []

    def constant(shape: torch.Size, roughness: Tensor) -> Tensor:
        roughness_values.append(roughness)
        return torch.full(tuple(shape), 0.75)

    monkeypatch.setattr(ueraser, "plasma", constant)
    monkeypatch.setattr(ueraser, "apply_operations", lambda images, chosen, strength: images)
    views = draw_views(torch.full((4000, 3, 2, 2), 0.2))
    values = views[:, 0, 0, 0]
    assert torch.equal(views, values.view(-1, 1, 1, 1).expand_as(views))
    unchanged, contrast = values == 0.2, values == 0  # 0.5 + 3 * (0.2 - 0.5), clipped
    for part in (unchanged, contrast):
        assert float(part.float().mean()) == pytest.approx(0.25, abs=0.04)
    # brightness adds 0.25 to 0.5, which gives 0.45 to 0.7; contrast after it gives 0.35 to 1.1
    brighter = values[~unchanged & ~contrast]
    assert (float(brighter.min()), float(brighter.max())) == (pytest.approx(0.35, abs=0.01), 1)
    roughness = torch.cat(roughness_values)
    assert len(roughness) == 8000
    assert (float(roughness.min()), float(roughness.max())) == (
        pytest.approx(0.3, abs=1e-3),
        pytest.approx(0.7, abs=1e-3),
    )


def test_views_shuffle_the_channels_of_half_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ueraser, "plasma", lambda shape, roughness: torch.full(tuple(shape), 0.5))
    monkeypatch.setattr(ueraser, "apply_operations", lambda images, chosen, strength: images)
    views = draw_views(torch.tensor([0.5, 0.25, 0.375]).view(1, 3, 1, 1).repeat(6000, 1, 2, 2))
    orders = views[:, :, 0, 0].argsort(1)
    codes = (orders * torch.tensor([9, 3, 1])).sum(1)
    shares = torch.unique(codes, return_counts=True)[1] / 6000
    assert sorted(shares.tolist()) == pytest.approx([1 / 12] * 5 + [7 / 12], abs=0.02)


def test_views_end_with_a_random_operation_at_random_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []

    def record(images: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
        drawn.append((chosen, strength))
        return images

    monkeypatch.setattr(ueraser, "apply_operations", record)
    draw_views(pictures(3000, 3, 4, 4))
    ((chosen, strength),) = drawn
    assert float(torch.bincount(chosen, minlength=14).min()) > 3000 / 14 * 0.7
    assert float(strength.abs().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((strength > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 17, 17), (2, 2, 20, 33), (1, 3, 2, 2), (1, 1, 1, 3)], ids=str)
def test_a_fractal_equals_diamond_square_computed_node_by_node(shape: tuple[int, ...]) -> None:
    roughness = torch.tensor([0.3, 0.7])[: shape[0]]
    torch.manual_seed(3)
    maps = plasma(torch.Size(shape), roughness)
    torch.manual_seed(3)
    size = 1
    while size + 1 < max(shape[2:]):
        size *= 2
    drawn = torch.rand(*shape[:2], size + 1, size + 1)  # the random value of each node
    nodes, level = drawn[..., ::size, ::size], 0
    while nodes.shape[-1] <= size:
        side = 2 * nodes.shape[-1] - 1
        spacing = size // (side - 1)
        random, finer = drawn[..., ::spacing, ::spacing], torch.zeros(*shape[:2], side, side)
        finer[..., ::2, ::2] = nodes
        weight = (roughness**level if level else torch.zeros(shape[0])).view(-1, 1)
        for odd, steps in ((2, [(-1, -1), (-1, 1), (1, -1), (1, 1)]), (1, [(-1, 0), (1, 0), (0, -1), (0, 1)])):
            for row in range(side):
                for column in range(side):
                    if row % 2 + column % 2 != odd:
                        continue
                    neighbours = [(row + down, column + right) for down, right in steps]
                    neighbours = [(y, x) for y, x in neighbours if 0 <= y < side and 0 <= x < side]
                    mean = sum(finer[..., y, x] for y, x in neighbours) / len(neighbours)
                    finer[..., row, column] = (1 - weight) * mean + weight * random[..., row, column]
        nodes, level = finer, level + 1
    assert torch.allclose(maps, nodes[..., : shape[2], : shape[3]], atol=1e-6)


def test_fractals_fill_the_range_and_rougher_ones_are_rougher() -> None:
    maps = plasma(torch.Size((400, 3, 32, 32)), torch.tensor([0.3, 0.7]).repeat(200))
    assert float(maps.min()) >= 0
    assert float(maps.max()) <= 1
    assert float(maps.max() - maps.min()) > 0.9
    assert float(maps.mean()) == pytest.approx(0.5, abs=0.02)
    steps = (maps[..., 1:] - maps[..., :-1]).abs().mean((1, 2, 3))
    assert float(steps[1::2].mean()) > 2 * float(steps[::2].mean())
