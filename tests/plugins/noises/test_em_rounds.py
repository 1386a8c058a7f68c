"""EM as in the official code: rounds, their end, checkpoints, saturated pixels and one-sided noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import RADIUS, HostContext, data, noise_by_rounds, surrogate
from uebench import Noise, kit
from uebench.authoring.check import assert_contract
from uebench.authoring.sample_run import Interrupted, make_sample_noise
from uebench.components.registry import registry
from uebench.components.spec import canonical_text, format_value
from uebench.compute.audit import release_images
from uebench.storage.store import Store
from uebench_plugins.noises.em import EM
from uebench_plugins.noises.em_classwise import EMClasswise
from uebench_plugins.noises.em_rem import EMREM
from uebench_plugins.noises.rounds import measure_error_rate, take_positive_part
from uebench_plugins.targets.smallcnn import SmallCNN

SMALL = SmallCNN(width=4)
OFFICIAL = EM(
    radius=RADIUS,
    surrogate=SMALL,
    loop="rounds",
    warm_start=True,
    augment=False,
    schedule="constant",
    noise_steps=2,
    noise_step=0.1,
    batch=5,
    learn=2,
    steps=20,
)
CLASSWISE = EMClasswise(radius=RADIUS, surrogate=SMALL, rounds=6, learn=3, batch=8, part=0.5, stop_error=0.0)


class CountingContext(HostContext):
    """A context that counts steps."""

    count = 0

    def steps(self, count: int) -> Iterator[int]:
        for step in super().steps(count):
            self.count += 1
            yield step


class RecordingNetwork(nn.Module):
    """Wraps a network and records the images of every pass, in train mode and in eval mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.trained_on, self.evaluated_on = net, list[Tensor](), list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        (self.trained_on if self.training else self.evaluated_on).append(images.detach().clone())
        return self.net(images)


def surrogate_with_large_gradients() -> nn.Module:
    """Return the shared network with large weights, so that some gradients are clipped."""
    net = surrogate()
    with torch.no_grad():
        net[4].weight *= 8  # type: ignore[index]
    return net


def draw_order(count: int) -> list[int]:
    """Return the order of the images in the batches."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(HostContext.seed)).tolist()
    return order


@pytest.mark.parametrize(
    ("stop_error", "steps", "rounds"),
    [(0.0, 20, 6), (0.1, 20, 4), (0.4, 20, 3), (1.0, 20, 1), (0.0, 4, 2), (0.0, 5, 3)],
)
def test_rounds_and_their_end_equal_the_official_codes(stop_error: float, steps: int, rounds: int) -> None:
    """Thirteen images in batches of five: the last batch is incomplete, and two training steps do not cover the set."""
    images, labels = data(13)
    context = CountingContext(surrogate_with_large_gradients())
    computed = replace(OFFICIAL, stop_error=stop_error, steps=steps).make(images, labels, context)
    noise, rounds_run, norms = noise_by_rounds(
        surrogate_with_large_gradients(),
        images,
        labels,
        draw_order(13),
        batch=5,
        learn=2,
        noise_steps=2,
        step=0.1 * RADIUS,
        rate=0.1,
        stop_error=stop_error,
        rounds=-(-steps // 2),
    )
    assert rounds_run == rounds
    assert context.count == rounds * (2 + 3), "a round is two training steps and the three batches of the set"
    assert computed.dtype == torch.float32
    assert torch.allclose(computed, noise, atol=1e-7)
    assert max(norms) > 5, "some gradients are clipped"
    assert rounds < 3 or min(norms) < 5, "some gradients are not clipped"


def test_the_surrogate_learns_from_noise_that_is_neither_rounded_nor_clipped() -> None:
    images, labels = data(12)
    for augment in (False, True):
        net = RecordingNetwork(SMALL.build((3, 6, 6), 4))
        noise = replace(OFFICIAL, augment=augment, batch=12, learn=1, steps=2, stop_error=0.0)
        delta = noise.make(images.float(), labels, HostContext(net))
        first, second = net.trained_on
        order = draw_order(12)
        assert torch.equal(first, images[order].float()) is not augment, "the first noise is 0"
        assert bool(((second > 1) | (second < 0)).any()), "saturated pixels leave the range by one step"
        assert not torch.allclose(second * 255, (second * 255).round(), atol=1e-3)
        assert torch.equal(net.evaluated_on[-1], (images.float() + delta)[order]), (
            "the error is measured on the same images"
        )


def test_without_a_warm_start_every_descent_starts_from_random_noise() -> None:
    images, labels = data(12)
    images = images.float().clamp(0.2, 0.8)
    for warm_start in (False, True):
        net = RecordingNetwork(SMALL.build((3, 6, 6), 4))
        noise = replace(OFFICIAL, warm_start=warm_start, batch=12, learn=1, steps=2, stop_error=0.0, noise_steps=1)
        noise.make(images, labels, HostContext(net))
        first, _, second, _ = (points - images[draw_order(12)] for points in net.evaluated_on)
        assert float(first.abs().max()) == 0 if warm_start else float(first.abs().max()) > 0.9 * RADIUS
        assert len(second.unique()) < 2000 if warm_start else float(second.abs().max()) > 0.9 * RADIUS


def test_a_last_batch_with_one_image_is_not_trained_on_but_gets_noise() -> None:
    images, labels = data(9)
    net = RecordingNetwork(SMALL.build((3, 6, 6), 4))
    delta = replace(OFFICIAL, batch=4, learn=3, steps=6, stop_error=0.0).make(images.float(), labels, HostContext(net))
    assert [len(batch) for batch in net.trained_on] == [4] * 6
    assert bool(delta.flatten(1).any(1).all())
    net = RecordingNetwork(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)))
    replace(OFFICIAL, batch=4, learn=3, steps=3).make(images[:1].float(), labels[:1], HostContext(net))
    assert [len(batch) for batch in net.trained_on] == [1] * 3, "one image is the whole set"


def test_the_passes_of_rounds_are_not_known_in_advance() -> None:
    assert OFFICIAL.passes(100) == {}
    assert EM(surrogate=SMALL).passes(100) != {}


@pytest.mark.parametrize(
    "noise",
    [
        replace(OFFICIAL, batch=10, steps=6, stop_error=0.0),
        replace(OFFICIAL, batch=10, steps=6, stop_error=1.0, warm_start=False, augment=True, one_sided=True),
        replace(CLASSWISE, batch=5, learn=2, rounds=3, saturation="official", one_sided=True),
    ],
    ids=["em", "em in one round", "em-classwise"],
)
def test_interrupted_rounds_end_with_the_same_bits(noise: Noise, tmp_path: Path) -> None:
    """Interrupted in training, between training and descent, in the descent, and between rounds."""
    uninterrupted, *_ = make_sample_noise(noise, Store(tmp_path / "whole"), whole=True)
    assert bool(uninterrupted.any())
    interruptions = 0
    for step in (1, 2, 4, 5, 8):
        store = Store(tmp_path / str(step))
        try:
            make_sample_noise(noise, store, whole=True, dies_after=step)
        except Interrupted:
            interruptions += 1
            resumed, *_ = make_sample_noise(noise, store, whole=True)
            assert torch.equal(resumed, uninterrupted), f"after step {step}"
    assert interruptions == (3 if getattr(noise, "stop_error", 0) == 1 else 5), "one round has five steps"


def test_one_sided_noise_is_truncated_to_whole_steps() -> None:
    steps = torch.tensor([-8.0, -0.5, 0.0, 0.7, 3.2, 4 - 1e-5, 4 + 1e-5, 7.99, 8.0])
    assert torch.equal(
        kit.to_steps(take_positive_part(steps / 255), 8 / 255), torch.tensor([0, 0, 0, 0, 3, 4, 4, 7, 8]).to(torch.int8)
    )


@pytest.mark.parametrize("noise", [OFFICIAL, CLASSWISE], ids=lambda noise: noise.name)
def test_one_sided_noise_is_released_as_the_official_code_adds_it(noise: Any) -> None:
    """It adds the noise times 255, clipped to [0, 255], to the 8-bit image, and clips and truncates the sum."""
    images, labels = data(24)
    clean = kit.to_bytes(images)
    context = HostContext()
    floats = noise.make(clean.float() / 255, labels, context)
    if not floats.is_floating_point():  # em-classwise returns rounded noise: use its state instead
        last_state: dict[str, Tensor] = {}
        context.keep = lambda *more, **state: last_state.update(state)  # type: ignore[method-assign]
        noise.make(clean.float() / 255, labels, context)
        floats = last_state["patterns"][labels]
    positive = replace(noise, one_sided=True).make(clean.float() / 255, labels, HostContext())
    released = release_images(noise, clean, positive)
    expected = clean.double() + (floats.double() * 255 + 1e-3).clamp(0, 255)
    assert torch.equal(released, expected.clamp(0, 255).to(torch.uint8))
    assert bool((released > clean).any())
    assert not bool((released < clean).any())
    assert bool((floats < 0).any())


def test_at_saturated_pixels_official_class_wise_noise_counts_only_the_visible_part() -> None:
    """Compare with the official code, image by image: the protected image is clipped before the step."""
    net, (images, labels) = surrogate(), data()
    noise = EMClasswise(radius=RADIUS, surrogate=SMALL, noise_step=0.5, saturation="official")
    patterns = torch.zeros(4, 3, 6, 6, dtype=torch.float64).uniform_(-0.08, 0.08)
    before, clipped = patterns.clone(), patterns.clone()
    net.eval()
    results: dict[int, list[Tensor]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        point = (image + before[label]).clamp(0, 1)[None].requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), torch.tensor([label])), point)
        noise_of_image = point.detach()[0] - 0.5 * RADIUS * gradient[0].sign() - image
        results.setdefault(label, []).append(noise_of_image.clamp(-RADIUS, RADIUS))
    noise.descend(net, images, labels, patterns)
    replace(noise, saturation="clipped").descend(net, images, labels, clipped)
    for label, noises in results.items():
        assert torch.allclose(patterns[label], torch.stack(noises).mean(0), atol=1e-12)
    assert not torch.allclose(clipped[:, :, 0], patterns[:, :, 0], atol=1e-3), "rows that are black in every image"
    assert float(patterns[:, :, 0].min()) >= -0.5 * RADIUS - 1e-12, "at most one step below black"


@pytest.mark.parametrize("saturation", ["clipped", "official"])
def test_the_surrogate_of_class_wise_noise_gets_clipped_images_or_x_plus_noise(saturation: Any) -> None:
    images, labels = data(40)
    net = RecordingNetwork(SMALL.build((3, 6, 6), 4))
    replace(CLASSWISE, saturation=saturation, rounds=2).make(images.float(), labels, HostContext(net))
    for batch in (torch.cat(net.trained_on), net.evaluated_on[-1]):
        assert bool(((batch < 0) | (batch > 1)).any()) is (saturation == "official")


def test_the_error_rate_is_a_share_of_all_images_in_eval_mode() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return F.one_hot(torch.ones(len(images), dtype=torch.int64), 3).float()

    labels = torch.tensor([1, 1, 0, 1, 2, 1, 0])
    batches = [(torch.zeros(len(part), 1), part) for part in labels.split(3)]
    assert measure_error_rate(Constant(), batches) == 3 / 7


@pytest.mark.parametrize("rounded", [True, False])
def test_noise_of_em_rem_is_rounded_before_surrogate_training_or_only_at_release(rounded: bool) -> None:
    """The reference stores the noise in floats and rounds the released images."""
    images, labels = data(12)
    clean = kit.to_bytes(images)
    x = clean.double() / 255
    noise = EMREM(radius=RADIUS, surrogate=SMALL, noise_steps=3, steps=3, batch=12, rounded=rounded)
    drawn: list[Tensor] = []

    class Recording(HostContext):
        def augment(self, images: Tensor) -> Tensor:
            drawn.append(super().augment(images))
            return drawn[-1]

    net = RecordingNetwork(surrogate())
    delta = noise.make(x, labels, Recording(net))
    views = drawn[1:]  # the first is drawn for its shape
    assert len(net.trained_on) == 3
    for protected, view in zip(net.trained_on, views[:3], strict=True):
        steps = 255 * (protected - view)
        is_inside = (protected > 0) & (protected < 1)
        assert bool(torch.isclose(steps, steps.round(), atol=1e-6)[is_inside].all()) is rounded
    # the last noise belongs to the last view: one more step from the last point that the network evaluated
    last = net.evaluated_on[-1].clone().requires_grad_(True)
    with kit.frozen(net.net):
        (gradient,) = torch.autograd.grad(F.cross_entropy(net.net(last), labels, reduction="sum"), last)
    stepped = last.detach() - noise.noise_step * RADIUS * gradient.sign()
    exact = (stepped.clamp(views[3] - RADIUS, views[3] + RADIUS).clamp(0, 1) - views[3]).float()
    assert torch.equal(release_images(noise, clean, delta), release_images(noise, clean, exact))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            "em:surrogate=smallcnn",
            "em@1:radius=0.03137254901960784,surrogate={},noise_steps=10,noise_step=0.2,steps=5000,batch=128,lr=0.1,schedule=step,augment=true,warm_start=false,one_sided=false",
        ),
        (
            "em-rem:surrogate=smallcnn",
            "em-rem@1:radius=0.03137254901960784,surrogate={},noise_steps=10,noise_step=0.2,steps=5000,batch=128,lr=0.1,schedule=step",
        ),
        (
            "em-classwise:surrogate=smallcnn",
            "em-classwise@1:radius=0.03137254901960784,surrogate={},augment=false,part=0.2,learn=10,noise_step=0.1,stop_error=0.01,rounds=100,batch=512,lr=0.1",
        ),
    ],
)
def test_published_keys_of_em_are_unchanged(text: str, canonical: str) -> None:
    build = registry().build
    target = format_value(build("target", "smallcnn"), exact=True)
    assert canonical_text(build("noise", text)) == canonical.format(target)
    added = {
        "em": "loop=rounds,learn=20,stop_error=0.1",
        "em-rem": "rounded=false",
        "em-classwise": "saturation=official,one_sided=true",
    }
    parameters = added[text.partition(":")[0]]
    assert canonical_text(build("noise", f"{text},{parameters}")) == f"{canonical.format(target)},{parameters}"


@pytest.mark.parametrize(
    "text",
    [
        "em:loop=rounds,warm_start=true,augment=false,schedule=constant,one_sided=true,learn=2,steps=6,noise_steps=2",
        "em-classwise:saturation=official,one_sided=true,learn=2,rounds=2,batch=16",
        "em-rem:rounded=false,steps=2,noise_steps=2",
    ],
)
def test_the_official_variants_keep_the_contract(text: str) -> None:
    assert_contract(f"{text},surrogate=(smallcnn:width=4)")
