"""EM as the official code makes it: rounds, their end, what is kept of them, saturated pixels and one-sided noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import RADIUS, Sink, data, noise_by_rounds, surrogate
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


class Counted(Sink):
    """A context that counts steps."""

    count = 0

    def steps(self, count: int) -> Iterator[int]:
        for step in super().steps(count):
            self.count += 1
            yield step


class Recorded(nn.Module):
    """Wraps a network and records the images of every pass, in train mode and in eval mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.learned, self.looked_at = net, list[Tensor](), list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        (self.learned if self.training else self.looked_at).append(images.detach().clone())
        return self.net(images)


def steep() -> nn.Module:
    """Return the network of the laboratory with large weights, so that some of its gradients are cut."""
    net = surrogate()
    with torch.no_grad():
        net[4].weight *= 8  # type: ignore[index]
    return net


def drawn(count: int) -> list[int]:
    """Return the order of the batches."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(Sink.seed)).tolist()
    return order


@pytest.mark.parametrize(
    ("stop_error", "steps", "rounds"),
    [(0.0, 20, 6), (0.1, 20, 4), (0.4, 20, 3), (1.0, 20, 1), (0.0, 4, 2), (0.0, 5, 3)],
)
def test_rounds_and_their_end_are_the_official_codes(stop_error: float, steps: int, rounds: int) -> None:
    """Thirteen images in batches of five: the last is incomplete, and a round's two steps end within the set."""
    images, labels = data(13)
    context = Counted(steep())
    found = replace(OFFICIAL, stop_error=stop_error, steps=steps).make(images, labels, context)
    noise, taken, norms = noise_by_rounds(
        steep(),
        images,
        labels,
        drawn(13),
        batch=5,
        learn=2,
        noise_steps=2,
        step=0.1 * RADIUS,
        rate=0.1,
        stop_error=stop_error,
        rounds=-(-steps // 2),
    )
    assert taken == rounds
    assert context.count == rounds * (2 + 3), "a round is two training steps and the three batches of the set"
    assert found.dtype == torch.float32
    assert torch.allclose(found, noise, atol=1e-7)
    assert max(norms) > 5, "some gradients are cut"
    assert rounds < 3 or min(norms) < 5, "and some are not"


def test_the_surrogate_learns_from_noise_that_is_neither_rounded_nor_clipped_and_augmented_if_asked() -> None:
    images, labels = data(12)
    for augment in (False, True):
        net = Recorded(SMALL.build((3, 6, 6), 4))
        noise = replace(OFFICIAL, augment=augment, batch=12, learn=1, steps=2, stop_error=0.0)
        delta = noise.make(images.float(), labels, Sink(net))
        first, second = net.learned
        order = drawn(12)
        assert torch.equal(first, images[order].float()) is not augment, "the first noise is none"
        assert bool(((second > 1) | (second < 0)).any()), "saturated pixels are outside of the range by a step"
        assert not torch.allclose(second * 255, (second * 255).round(), atol=1e-3)
        assert torch.equal(net.looked_at[-1], (images.float() + delta)[order]), "the error is that of the same images"


def test_without_a_warm_start_every_descent_of_a_round_begins_at_random() -> None:
    images, labels = data(12)
    images = images.float().clamp(0.2, 0.8)
    for warm in (False, True):
        net = Recorded(SMALL.build((3, 6, 6), 4))
        noise = replace(OFFICIAL, warm_start=warm, batch=12, learn=1, steps=2, stop_error=0.0, noise_steps=1)
        noise.make(images, labels, Sink(net))
        first, _, second, _ = (seen - images[drawn(12)] for seen in net.looked_at)
        assert float(first.abs().max()) == 0 if warm else float(first.abs().max()) > 0.9 * RADIUS
        assert len(second.unique()) < 2000 if warm else float(second.abs().max()) > 0.9 * RADIUS


def test_a_last_batch_of_one_image_is_not_learned_from_and_gets_noise() -> None:
    images, labels = data(9)
    net = Recorded(SMALL.build((3, 6, 6), 4))
    delta = replace(OFFICIAL, batch=4, learn=3, steps=6, stop_error=0.0).make(images.float(), labels, Sink(net))
    assert [len(batch) for batch in net.learned] == [4] * 6
    assert bool(delta.flatten(1).any(1).all())
    net = Recorded(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)))
    replace(OFFICIAL, batch=4, learn=3, steps=3).make(images[:1].float(), labels[:1], Sink(net))
    assert [len(batch) for batch in net.learned] == [1] * 3, "one image is the whole set"


def test_the_passes_of_rounds_are_not_known_beforehand() -> None:
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
def test_interrupted_rounds_go_on_to_the_same_bits(noise: Noise, tmp_path: Path) -> None:
    """Dead in training, between training and descent, in the descent, and between rounds; from what is on disk."""
    whole, *_ = make_sample_noise(noise, Store(tmp_path / "whole"), whole=True)
    assert bool(whole.any())
    deaths = 0
    for step in (1, 2, 4, 5, 8):
        store = Store(tmp_path / str(step))
        try:
            make_sample_noise(noise, store, whole=True, dies_after=step)
        except Interrupted:
            deaths += 1
            resumed, *_ = make_sample_noise(noise, store, whole=True)
            assert torch.equal(resumed, whole), f"after step {step}"
    assert deaths == (3 if getattr(noise, "stop_error", 0) == 1 else 5), "one round has five steps"


def test_one_sided_noise_is_cut_to_whole_steps_downwards() -> None:
    steps = torch.tensor([-8.0, -0.5, 0.0, 0.7, 3.2, 4 - 1e-5, 4 + 1e-5, 7.99, 8.0])
    assert torch.equal(
        kit.to_steps(take_positive_part(steps / 255), 8 / 255), torch.tensor([0, 0, 0, 0, 3, 4, 4, 7, 8]).to(torch.int8)
    )


@pytest.mark.parametrize("noise", [OFFICIAL, CLASSWISE], ids=lambda noise: noise.name)
def test_one_sided_noise_is_released_as_the_official_code_adds_it(noise: Any) -> None:
    """Noise times 255, cut to [0, 255], is added to the 8-bit image there, and the sum cut and truncated."""
    images, labels = data(24)
    clean = kit.to_bytes(images)
    context = Sink()
    floats = noise.make(clean.float() / 255, labels, context)
    if not floats.is_floating_point():  # em-classwise rounds what it returns: take its noise before
        kept: dict[str, Tensor] = {}
        context.keep = lambda *more, **state: kept.update(state)  # type: ignore[method-assign]
        noise.make(clean.float() / 255, labels, context)
        floats = kept["patterns"][labels]
    half = replace(noise, one_sided=True).make(clean.float() / 255, labels, Sink())
    released = release_images(noise, clean, half)
    added = clean.double() + (floats.double() * 255 + 1e-3).clamp(0, 255)
    assert torch.equal(released, added.clamp(0, 255).to(torch.uint8))
    assert bool((released > clean).any())
    assert not bool((released < clean).any())
    assert bool((floats < 0).any())


def test_at_saturated_pixels_class_wise_noise_counts_with_what_an_image_shows_of_it() -> None:
    """Image by image, as the official code does, with the noise of an image clipped before its step."""
    net, (images, labels) = surrogate(), data()
    noise = EMClasswise(radius=RADIUS, surrogate=SMALL, noise_step=0.5, saturation="official")
    patterns = torch.zeros(4, 3, 6, 6, dtype=torch.float64).uniform_(-0.08, 0.08)
    before, plain = patterns.clone(), patterns.clone()
    net.eval()
    moved: dict[int, list[Tensor]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        point = (image + before[label]).clamp(0, 1)[None].requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), torch.tensor([label])), point)
        own = point.detach()[0] - 0.5 * RADIUS * slope[0].sign() - image
        moved.setdefault(label, []).append(own.clamp(-RADIUS, RADIUS))
    noise.descend(net, images, labels, patterns)
    replace(noise, saturation="clipped").descend(net, images, labels, plain)
    for label, noises in moved.items():
        assert torch.allclose(patterns[label], torch.stack(noises).mean(0), atol=1e-12)
    assert not torch.allclose(plain[:, :, 0], patterns[:, :, 0], atol=1e-3), "rows that are black in every image"
    assert float(patterns[:, :, 0].min()) >= -0.5 * RADIUS - 1e-12, "no more than a step below black"


@pytest.mark.parametrize("saturation", ["clipped", "official"])
def test_the_surrogate_of_class_wise_noise_sees_clipped_images_or_x_plus_noise(saturation: Any) -> None:
    images, labels = data(40)
    net = Recorded(SMALL.build((3, 6, 6), 4))
    replace(CLASSWISE, saturation=saturation, rounds=2).make(images.float(), labels, Sink(net))
    learned, looked_at = torch.cat(net.learned), net.looked_at[-1]
    for seen in (learned, looked_at):
        assert bool(((seen < 0) | (seen > 1)).any()) is (saturation == "official")


def test_the_error_rate_is_a_share_of_all_images_in_eval_mode() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return F.one_hot(torch.ones(len(images), dtype=torch.int64), 3).float()

    labels = torch.tensor([1, 1, 0, 1, 2, 1, 0])
    batches = [(torch.zeros(len(part), 1), part) for part in labels.split(3)]
    assert measure_error_rate(Constant(), batches) == 3 / 7


@pytest.mark.parametrize("rounded", [True, False])
def test_noise_of_em_rem_is_rounded_before_the_surrogate_sees_it_or_only_once_it_is_released(rounded: bool) -> None:
    """The reference keeps the noise of every image in floats, and rounds the released images."""
    images, labels = data(12)
    clean = kit.to_bytes(images)
    x = clean.double() / 255
    noise = EMREM(radius=RADIUS, surrogate=SMALL, noise_steps=3, steps=3, batch=12, rounded=rounded)
    seen: list[Tensor] = []

    class Seeing(Sink):
        def augment(self, images: Tensor) -> Tensor:
            seen.append(super().augment(images))
            return seen[-1]

    net = Recorded(surrogate())
    delta = noise.make(x, labels, Seeing(net))
    views = seen[1:]  # the first is a look at the shape
    assert len(net.learned) == 3
    for shown, view in zip(net.learned, views[:3], strict=True):
        steps = 255 * (shown - view)
        inside = (shown > 0) & (shown < 1)
        assert bool(torch.isclose(steps, steps.round(), atol=1e-6)[inside].all()) is rounded
    # the last noise, of the view seen last, from the passes at it: one more step from the last point that was looked at
    last = net.looked_at[-1].clone().requires_grad_(True)
    with kit.frozen(net.net):
        (slope,) = torch.autograd.grad(F.cross_entropy(net.net(last), labels, reduction="sum"), last)
    moved = last.detach() - noise.noise_step * RADIUS * slope.sign()
    exact = (moved.clamp(views[3] - RADIUS, views[3] + RADIUS).clamp(0, 1) - views[3]).float()
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
def test_published_keys_of_em_hold(text: str, canonical: str) -> None:
    build = registry().build
    inner = format_value(build("target", "smallcnn"), exact=True)
    assert canonical_text(build("noise", text)) == canonical.format(inner)
    added = {
        "em": "loop=rounds,learn=20,stop_error=0.1",
        "em-rem": "rounded=false",
        "em-classwise": "saturation=official,one_sided=true",
    }
    more = added[text.partition(":")[0]]
    assert canonical_text(build("noise", f"{text},{more}")) == f"{canonical.format(inner)},{more}"


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
