"""AR, OPS, CUDA and HYPO against their methods written out in another way, on the released 8-bit images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torch import Tensor
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import Sink, Watched, data, surrogate
from uebench import Noise, UserError, kit
from uebench.components.registry import registry
from uebench.compute.audit import release_images
from uebench.planning.suite_file import read_suite
from uebench_plugins.noises import ar, cuda, ops
from uebench_plugins.noises.ar import AR
from uebench_plugins.noises.cuda import CUDA
from uebench_plugins.noises.hypo import HYPO
from uebench_plugins.noises.ops import OPS
from uebench_plugins.noises.tap import TAP
from uebench_plugins.targets.smallcnn import SmallCNN

VICTIM = SmallCNN(width=4)


def pictures(count: int = 24, channels: int = 3, height: int = 6, width: int = 6) -> tuple[Tensor, Tensor]:
    """Return uint8 images of four classes."""
    torch.manual_seed(3)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8), torch.arange(count) % 4


def protected(noise: Noise, images: Tensor, labels: Tensor, context: Sink) -> Tensor:
    """Return the images as they would be published, uint8; the audit refuses them where they are over the budget."""
    return release_images(noise, images, noise.make(images.float() / 255, labels, context))


def changes(clean: Tensor, released: Tensor) -> Tensor:
    return released.int() - clean.int()


def departure(noise: Tensor, filters: Tensor) -> Tensor:
    """Return noise (b, c, h, w) minus what filters (c, 3, 3) predict, where all eight neighbours are there."""
    height, width = noise.shape[-2] - 2, noise.shape[-1] - 2
    left = noise[..., 2:, 2:].clone()
    for row in range(3):
        for column in range(3):
            left -= filters[:, row, column, None, None] * noise[..., row : row + height, column : column + width]
    return left


def test_ar_fills_an_image_value_by_value_from_a_gaussian_start_and_drops_four_rows_and_columns() -> None:
    filters = torch.randn(2, 3, 3, 3)
    filters[..., 2, 2] = 0
    filters /= 2 * filters.abs().sum((2, 3), keepdim=True)
    torch.manual_seed(4)
    found = ar.generate(filters, (5, 9))
    torch.manual_seed(4)
    expected = torch.randn(2, 3, 9, 13)
    for row in range(2, 9):
        for column in range(2, 13):
            window = expected[..., row - 2 : row + 1, column - 2 : column + 1].clone()
            expected[..., row, column] = (window * filters).sum((-2, -1))
    assert torch.allclose(found, expected[..., 4:, 4:], atol=1e-6)


def test_ar_noise_of_a_class_obeys_its_filter_and_no_other() -> None:
    filters = AR(candidates=40).choose_filters(Sink(), (3, 32, 32))
    assert filters.shape == (4, 3, 3, 3)
    assert torch.equal(filters[..., 2, 2], torch.zeros(4, 3))
    assert torch.allclose(filters.sum((2, 3)), torch.ones(4, 3), atol=1e-4)
    assert len(filters.flatten(0, 1).unique(dim=0)) == 12, "one filter a class and channel"
    noise = ar.normalise(ar.generate(filters, (32, 32)))
    assert torch.allclose(noise.flatten(1).norm(dim=1), torch.ones(4))
    rest = torch.stack([departure(noise, one).flatten(1).norm(dim=1) for one in filters])
    assert float(rest.diagonal().max()) < 1e-5
    assert float(rest[~torch.eye(4, dtype=torch.bool)].min()) > 0.05


def test_the_filters_tell_the_classes_of_released_ar_noise_apart() -> None:
    """The paper's appendix A.2: a network of the filters alone classifies the noise; here after rounding to 8 bits."""
    images, labels = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(40) % 4
    noise = AR(candidates=100)
    torch.manual_seed(0)
    delta = changes(images, protected(noise, images, labels, Sink()))
    torch.manual_seed(0)
    filters = noise.choose_filters(Sink(), (3, 32, 32))
    rest = torch.stack([departure(delta.float(), one).square().sum((1, 2, 3)) for one in filters])
    assert torch.equal(rest.argmin(0), labels)
    assert len(delta.unique(dim=0)) == 40, "every image has a start of its own"
    norms = (delta / 255).flatten(1).norm(dim=1)
    assert float(norms.min()) > 0.97
    assert float(norms.max()) <= 1 + 1e-5


@pytest.mark.parametrize(
    ("shape", "radius"), [((3, 32, 32), 1), ((3, 96, 96), 3), ((3, 8, 8), 0.25), ((1, 16, 24), 0.3536)]
)
def test_l2_budgets_grow_with_the_root_of_the_number_of_values(shape: tuple[int, ...], radius: float) -> None:
    assert (AR().budget(shape).norm, AR().budget(shape).radius) == ("l2", pytest.approx(radius, abs=1e-4))
    assert (HYPO().budget(shape).norm, HYPO().budget(shape).radius) == ("l2", pytest.approx(radius / 2, abs=1e-4))


def test_ar_rejects_a_filter_whose_noise_from_any_start_is_too_loud_or_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []

    def generate(filters: Tensor, size: tuple[int, int]) -> Tensor:
        """Make the noise of each filter but the fourths bad in one trial, the first, second or third."""
        seen.append(filters[:, 0])
        trials = torch.full((*filters.shape[:2], *size), 0.9)
        for trial, value in enumerate((1e3, torch.nan, 0.91)):
            trials[trial::4, trial] = value
        return trials

    monkeypatch.setattr(ar, "generate", generate)
    monkeypatch.setattr(ar, "VALUES", 8 * 36)
    filters, noise = ar.draw_stable_filters(5, (6, 6), torch.device("cpu"))
    assert len(seen) == 3, "eight draws at a time, of which two are kept"
    assert torch.equal(filters, torch.cat([one[3::4] for one in seen])[:5])
    assert noise.shape == (5, 6, 6)


def test_kept_ar_filters_are_not_loud_and_most_draws_would_be() -> None:
    torch.manual_seed(0)
    _, noise = ar.draw_stable_filters(60, (16, 16), torch.device("cpu"))
    assert float(noise.square().mean((1, 2)).sqrt().max()) < 0.91
    drawn = torch.randn(200, 1, 3, 3)
    drawn[..., 2, 2] = 0
    loud = ar.generate(drawn / drawn.sum((2, 3), keepdim=True), (16, 16)).square().mean((1, 2, 3)).sqrt() > 0.91
    assert float(loud.float().mean()) > 0.5


def test_each_class_takes_the_ar_filter_on_whose_noise_the_earlier_ones_respond_most() -> None:
    torch.manual_seed(6)
    chosen = AR(candidates=12).choose_filters(Sink(), (3, 10, 14))
    torch.manual_seed(6)
    filters, noise = (
        one.unflatten(0, (12, 3)).double().numpy() for one in ar.draw_stable_filters(36, (10, 14), torch.device("cpu"))
    )
    taken = [0]
    while len(taken) < 4:
        scores = []
        for candidate in noise:
            sums = []
            for kernel in filters[taken]:
                matched = kernel.copy()
                matched[:, 2, 2] = -1
                response = signal.correlate(candidate / np.linalg.norm(candidate), matched, mode="valid")
                sums.append(np.maximum(response, 0).sum())
            scores.append(min(sums))
        taken.append(int(np.argmax(scores)))
    assert len(set(taken)) == 4
    assert np.allclose(chosen, filters[taken])


def test_ar_has_a_filter_for_every_class_however_few_candidates() -> None:
    filters = AR(candidates=1).choose_filters(Sink(), (1, 6, 6))
    assert len(filters.unique(dim=0)) == Sink.classes


def reference_pixels(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> list[Any]:
    """Search as the released code does, pixel by pixel and colour by colour, in float64."""
    taken: list[tuple[int, int, tuple[float, ...]]] = []
    for label in range(classes):
        own = images[labels == label] / 255
        best, score = None, -1.0
        for colour in np.ndindex(2, 2, 2):
            for row in range(images.shape[2]):
                for column in range(images.shape[3]):
                    far = np.abs(np.array(colour) - own[:, :, row, column])
                    if (row, column, colour) not in taken and far.mean() / far.std() > score:
                        best, score = (row, column, colour), far.mean() / far.std()
        assert best
        taken.append(best)
    return taken


def test_ops_finds_the_pixels_and_colours_of_a_search_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BATCH", 7)
    images, labels = pictures(60, height=4, width=5)
    images[labels == 1] = images[labels == 0]  # these two classes would like the same pixel
    keep = (labels < 3) | (torch.arange(60) < 30)
    images, labels = images[keep], labels[keep]
    expected = reference_pixels(images.numpy(), labels.numpy(), 4)
    released = protected(OPS(), images, labels, Sink())
    for label, (row, column, colour) in enumerate(expected):
        own, clean = released[labels == label], images[labels == label]
        assert torch.equal(own[:, :, row, column], 255 * torch.tensor(colour, dtype=torch.uint8).expand(len(own), 3))
        changed = (own != clean).any(1)
        assert torch.equal(changed.sum((1, 2)), torch.ones(len(own), dtype=torch.int64)), "one pixel an image"
        assert bool(changed[:, row, column].all())
    assert len(set(expected)) == 4, "no position and colour twice"
    assert reference_pixels(images.numpy(), labels.numpy(), 1) == expected[:1]


def test_a_pixel_that_never_changes_comes_first_in_ops_and_the_one_farthest_from_its_colour_ahead() -> None:
    images, labels = pictures(12, height=3, width=3)
    images[:, :, 0, 1], images[:, :, 2, 0] = 40, 215  # 215 from white, 215 from black
    images[:, :, 1, 2] = 230
    images[labels == 3, :, 1, 2] = 10
    images[:, :, 2, 2] = 255
    images[:4, :, 2, 2] = 254  # farther away, and all but constant
    released = protected(OPS(), images, labels, Sink())
    places = [
        (released != images).any(1)[labels == label].nonzero()[:, 1:].unique(dim=0).tolist() for label in range(4)
    ]
    assert places[0] == [[1, 2]]
    assert sorted(places[1:3]) == [[[0, 1]], [[2, 0]]]
    assert places[3] == [[1, 2]]
    assert released[labels == 0, :, 1, 2].unique().tolist() == [0]
    assert released[labels == 3, :, 1, 2].unique().tolist() == [255]


def test_ops_serves_grey_images_and_classes_without_any() -> None:
    images, labels = pictures(20, channels=1)
    images, labels = images[labels != 1], labels[labels != 1]
    released = protected(OPS(), images, labels, Sink())
    assert int((released != images).sum()) == len(images)


@pytest.mark.parametrize(("size", "channels"), [(3, 3), (5, 1)])
def test_cuda_is_a_correlation_with_the_filter_of_the_class_over_the_largest_value(
    size: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "BATCH", 7)
    images, labels = pictures(20, channels=channels, height=7, width=5)
    noise = CUDA(size=size)
    torch.manual_seed(8)
    released = protected(noise, images, labels, Sink())
    torch.manual_seed(8)
    filters = noise.draw_filters(Sink()).double().numpy()
    for image, label, found in zip(images.numpy(), labels.tolist(), released, strict=True):
        seen = np.stack([ndimage.correlate(one / 255, filters[label], mode="constant") for one in image])
        exact = torch.from_numpy(255 * seen / seen.max())
        assert float((found - exact).abs().max()) <= 0.5 + 1e-4, "rounded to the nearest"
        assert int(found.max()) == 255


def test_cuda_filters_have_one_weight_of_1_anywhere_and_the_others_below_the_bound() -> None:
    class Many(Sink):
        classes = 400

    torch.manual_seed(0)
    filters = CUDA(blur=0.2).draw_filters(Many()).flatten(1)
    ones = filters == 1
    assert torch.equal(ones.sum(1), torch.ones(400, dtype=torch.int64))
    assert bool(ones.any(0).all()), "in every place"
    others = filters[~ones]
    assert 0 <= float(others.min()) < 0.01
    assert 0.19 < float(others.max()) <= 0.2
    assert float(others.mean()) == pytest.approx(0.1, abs=0.005)


def test_a_black_image_stays_black_in_cuda() -> None:
    images, labels = pictures(4)
    images[2] = 0
    released = protected(CUDA(), images, labels, Sink())
    assert int(released[2].max()) == 0
    assert released[[0, 1, 3]].amax((1, 2, 3)).tolist() == [255] * 3


def test_cuda_refuses_a_filter_without_a_middle() -> None:
    with pytest.raises(UserError, match="cuda: size must be odd, not 4"):
        CUDA(size=4)


def loss(net: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    with kit.frozen(net):
        return float(F.cross_entropy(net(images.float() / 255), labels))


@pytest.mark.parametrize("norm", [{"norm": "l2", "radius": 2.0}, {"norm": "linf", "radius": 0.1}])
def test_hypo_lowers_the_loss_of_the_own_class_on_the_released_images_and_tap_raises_it(norm: dict[str, Any]) -> None:
    net, (images, labels) = surrogate().float(), pictures()
    noise = HYPO(victim=VICTIM, batch=10, **norm)
    released = protected(noise, images, labels, Sink(net))
    opposed = protected(TAP(radius=0.1, victim=VICTIM, noise_steps=40, noise_step=0.1), images, labels, Sink(net))
    clean = loss(net, images, labels)
    assert loss(net, released, labels) < 0.95 * clean
    assert loss(net, opposed, labels) > clean
    change = changes(images, released).double() / 255
    limit = noise.budget((3, 6, 6))
    sizes = change.flatten(1).norm(dim=1) if limit.norm == "l2" else change.abs().amax((1, 2, 3))
    assert float(sizes.max()) <= limit.radius * (1 + 1e-5)
    assert float(sizes.max()) > 0.9 * limit.radius


@pytest.mark.parametrize("norm", [{"norm": "l2"}, {"norm": "linf", "radius": 8 / 255}])
def test_hypos_steps_are_the_algorithm_written_out(norm: dict[str, Any]) -> None:
    net, (images, labels) = surrogate(), data()
    noise = HYPO(victim=VICTIM, noise_steps=7, **norm)
    found = noise.make(images, labels, Sink(net))
    limit = noise.budget((3, 6, 6))
    net.eval()
    point = images.clone()
    for _ in range(7):
        at = point.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(at), labels, reduction="sum"), at)
        if limit.norm == "l2":
            slope = slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
            moved = point - 0.2 * limit.radius * slope - images
            moved = moved * (limit.radius / moved.flatten(1).norm(dim=1)[:, None, None, None]).clamp(max=1)
        else:
            moved = (point - 0.2 * limit.radius * slope.sign() - images).clamp(-limit.radius, limit.radius)
        point = (images + moved).clamp(0, 1)
    assert torch.equal(found, kit.to_steps(point - images, limit))


def test_hypo_takes_a_hundred_passes_a_batch_from_the_image_itself_on_a_network_trained_on_the_clean_set() -> None:
    images, labels = data()
    images = images.float()
    net = Watched(VICTIM.build((3, 6, 6), 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    context = Sink(net)
    noise = HYPO(victim=VICTIM, batch=8)
    noise.make(images, labels, context)
    assert context.asked == (VICTIM, True)
    assert list(noise.victims()) == [VICTIM]
    assert [len(one) for one in net.attacked] == [8] * 100 + [4] * 100
    assert noise.passes(12) == {VICTIM: sum(len(one) for one in net.attacked)}
    assert torch.equal(net.attacked[0], images[:8])
    assert not net.trained_on
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_hypo_refuses_its_l2_radius_in_linf() -> None:
    with pytest.raises(UserError, match=r"hypo: in linf, radius must be below 0\.5, such as 8/255, not 0.5"):
        HYPO(norm="linf")


@pytest.mark.parametrize(("suite", "scale"), [("cifar10", 1), ("cifar10-small", 1), ("demo", 4)])
def test_suites_give_l2_noises_a_radius_of_their_own(suite: str, scale: float) -> None:
    """Not the L-inf radius that a suite has for all; the embedded digits have four times the papers' budgets."""
    for name, radius in (("ar", 1.0), ("hypo", 0.5)):
        noise = registry().build("noise", name, read_suite(suite).defaults)
        assert noise.radius == scale * radius  # type: ignore[attr-defined]
    assert (noise.noise_steps, noise.noise_step) == (100, 0.2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "noise", [AR(candidates=20), HYPO(victim=VICTIM, batch=4, noise_steps=2)], ids=lambda one: one.name
)
def test_an_interrupted_noise_goes_on_to_the_same_values(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Sink):
        """Ends after two steps, or goes on behind them."""

        state: Mapping[str, Tensor] = {}
        first, last = 0, 2

        def steps(self, count: int) -> Iterator[int]:
            yield from (step for step in super().steps(count) if self.first <= step < self.last)

        def keep(self, *more: Callable[[], Mapping[str, Tensor]], **state: Tensor) -> None:
            self.state = {name: value.clone() for name, value in state.items()}

        def kept(self) -> Mapping[str, Tensor]:
            return self.state

    monkeypatch.setattr(ar, "BATCH", 4)
    images, labels = data(16)
    images = images.float()

    def make(context: Sink) -> Tensor:
        torch.manual_seed(5)
        return noise.make(images, labels, context)

    straight = make(Sink())
    context = Interrupted()
    half = make(context)
    assert not half[8:].any()
    assert torch.equal(half[:8], straight[:8])
    context.first, context.last = 2, 4
    assert torch.equal(make(context), straight)
    assert straight[8:].any()


@pytest.mark.parametrize(
    "noise", [AR(candidates=20), OPS(), CUDA(), HYPO(victim=VICTIM, noise_steps=2)], ids=lambda one: one.name
)
def test_a_set_at_rest_gives_the_noise_of_the_same_set_in_floats(noise: Noise) -> None:
    images, labels = pictures()
    torch.manual_seed(5)
    first = noise.make(images.float() / 255, labels, Sink())
    torch.manual_seed(5)
    assert torch.equal(first, noise.make(kit.Pixels(images, torch.device("cpu")), labels, Sink()))  # type: ignore[arg-type]
