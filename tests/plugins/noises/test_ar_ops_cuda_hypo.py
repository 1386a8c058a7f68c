"""AR, OPS, CUDA and HYPO, compared with independent computations of their methods on released 8-bit images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torch import Tensor
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import HostContext, RecordingNetwork, data, surrogate
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


def protect(noise: Noise, images: Tensor, labels: Tensor, context: HostContext) -> Tensor:
    """Return the released images, uint8; the audit refuses images over the budget."""
    return release_images(noise, images, noise.make(images.float() / 255, labels, context))


def changes(clean: Tensor, released: Tensor) -> Tensor:
    return released.int() - clean.int()


def prediction_error(noise: Tensor, filters: Tensor) -> Tensor:
    """Return noise (b, c, h, w) minus the prediction of filters (c, 3, 3), where all eight neighbours exist."""
    height, width = noise.shape[-2] - 2, noise.shape[-1] - 2
    error = noise[..., 2:, 2:].clone()
    for row in range(3):
        for column in range(3):
            error -= filters[:, row, column, None, None] * noise[..., row : row + height, column : column + width]
    return error


def test_ar_computes_value_after_value_from_a_gaussian_start_and_drops_four_rows_and_columns() -> None:
    filters = torch.randn(2, 3, 3, 3)
    filters[..., 2, 2] = 0
    filters /= 2 * filters.abs().sum((2, 3), keepdim=True)
    torch.manual_seed(4)
    noise = ar.generate(filters, (5, 9))
    torch.manual_seed(4)
    expected = torch.randn(2, 3, 9, 13)
    for row in range(2, 9):
        for column in range(2, 13):
            window = expected[..., row - 2 : row + 1, column - 2 : column + 1].clone()
            expected[..., row, column] = (window * filters).sum((-2, -1))
    assert torch.allclose(noise, expected[..., 4:, 4:], atol=1e-6)


def test_only_the_filter_of_the_class_predicts_its_ar_noise() -> None:
    filters = AR(candidates=40).choose_filters(HostContext(), (3, 32, 32))
    assert filters.shape == (4, 3, 3, 3)
    assert torch.equal(filters[..., 2, 2], torch.zeros(4, 3))
    assert torch.allclose(filters.sum((2, 3)), torch.ones(4, 3), atol=1e-4)
    assert len(filters.flatten(0, 1).unique(dim=0)) == 12, "one filter per class and channel"
    noise = ar.normalise(ar.generate(filters, (32, 32)))
    assert torch.allclose(noise.flatten(1).norm(dim=1), torch.ones(4))
    errors = torch.stack([prediction_error(noise, class_filters).flatten(1).norm(dim=1) for class_filters in filters])
    assert float(errors.diagonal().max()) < 1e-5
    assert float(errors[~torch.eye(4, dtype=torch.bool)].min()) > 0.05


def test_the_filters_classify_released_ar_noise() -> None:
    """A network of the filters classifies the noise (paper, appendix A.2), also after rounding to 8 bits."""
    images, labels = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(40) % 4
    noise = AR(candidates=100)
    torch.manual_seed(0)
    delta = changes(images, protect(noise, images, labels, HostContext()))
    torch.manual_seed(0)
    filters = noise.choose_filters(HostContext(), (3, 32, 32))
    errors = torch.stack([prediction_error(delta.float(), kernels).square().sum((1, 2, 3)) for kernels in filters])
    assert torch.equal(errors.argmin(0), labels)
    assert len(delta.unique(dim=0)) == 40, "every image has a different start"
    norms = (delta / 255).flatten(1).norm(dim=1)
    assert float(norms.min()) > 0.97
    assert float(norms.max()) <= 1 + 1e-5


@pytest.mark.parametrize(
    ("shape", "radius"), [((3, 32, 32), 1), ((3, 96, 96), 3), ((3, 8, 8), 0.25), ((1, 16, 24), 0.3536)]
)
def test_l2_budgets_grow_with_the_root_of_the_number_of_values(shape: tuple[int, ...], radius: float) -> None:
    assert (AR().budget(shape).norm, AR().budget(shape).radius) == ("l2", pytest.approx(radius, abs=1e-4))
    assert (HYPO().budget(shape).norm, HYPO().budget(shape).radius) == ("l2", pytest.approx(radius / 2, abs=1e-4))


def test_ar_rejects_a_filter_whose_noise_from_any_start_is_too_large_or_nan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Tensor] = []

    def generate(filters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return noise that is too large or NaN in one trial, except for every fourth filter."""
        calls.append(filters[:, 0])
        trials = torch.full((*filters.shape[:2], *size), 0.9)
        for trial, value in enumerate((1e3, torch.nan, 0.91)):
            trials[trial::4, trial] = value
        return trials

    monkeypatch.setattr(ar, "generate", generate)
    monkeypatch.setattr(ar, "VALUES", 8 * 36)
    filters, noise = ar.draw_stable_filters(5, (6, 6), torch.device("cpu"))
    assert len(calls) == 3, "eight draws per call, of which two are stable"
    assert torch.equal(filters, torch.cat([drawn[3::4] for drawn in calls])[:5])
    assert noise.shape == (5, 6, 6)


def test_stable_ar_filters_have_limited_noise_and_most_draws_do_not() -> None:
    torch.manual_seed(0)
    _, noise = ar.draw_stable_filters(60, (16, 16), torch.device("cpu"))
    assert float(noise.square().mean((1, 2)).sqrt().max()) < 0.91
    drawn = torch.randn(200, 1, 3, 3)
    drawn[..., 2, 2] = 0
    is_unstable = ar.generate(drawn / drawn.sum((2, 3), keepdim=True), (16, 16)).square().mean((1, 2, 3)).sqrt() > 0.91
    assert float(is_unstable.float().mean()) > 0.5


def test_each_class_gets_the_ar_filter_on_whose_noise_the_earlier_filters_respond_most() -> None:
    torch.manual_seed(6)
    chosen = AR(candidates=12).choose_filters(HostContext(), (3, 10, 14))
    torch.manual_seed(6)
    filters, noise = (
        values.unflatten(0, (12, 3)).double().numpy()
        for values in ar.draw_stable_filters(36, (10, 14), torch.device("cpu"))
    )
    expected = [0]
    while len(expected) < 4:
        scores = []
        for candidate in noise:
            sums = []
            for kernel in filters[expected]:
                difference_kernel = kernel.copy()
                difference_kernel[:, 2, 2] = -1
                response = signal.correlate(candidate / np.linalg.norm(candidate), difference_kernel, mode="valid")
                sums.append(np.maximum(response, 0).sum())
            scores.append(min(sums))
        expected.append(int(np.argmax(scores)))
    assert len(set(expected)) == 4
    assert np.allclose(chosen, filters[expected])


def test_ar_has_a_filter_for_every_class_with_fewer_candidates() -> None:
    filters = AR(candidates=1).choose_filters(HostContext(), (1, 6, 6))
    assert len(filters.unique(dim=0)) == HostContext.classes


def reference_pixels(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> list[Any]:
    """Search as the released code does, pixel by pixel and colour by colour, in float64."""
    chosen: list[tuple[int, int, tuple[float, ...]]] = []
    for label in range(classes):
        class_images = images[labels == label] / 255
        best, score = None, -1.0
        for colour in np.ndindex(2, 2, 2):
            for row in range(images.shape[2]):
                for column in range(images.shape[3]):
                    difference = np.abs(np.array(colour) - class_images[:, :, row, column])
                    if (row, column, colour) not in chosen and difference.mean() / difference.std() > score:
                        best, score = (row, column, colour), difference.mean() / difference.std()
        assert best
        chosen.append(best)
    return chosen


def test_ops_finds_the_pixels_and_colours_of_a_full_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BATCH", 7)
    images, labels = pictures(60, height=4, width=5)
    images[labels == 1] = images[labels == 0]  # the best pixel of these two classes is the same
    keep = (labels < 3) | (torch.arange(60) < 30)
    images, labels = images[keep], labels[keep]
    expected = reference_pixels(images.numpy(), labels.numpy(), 4)
    released = protect(OPS(), images, labels, HostContext())
    for label, (row, column, colour) in enumerate(expected):
        result, clean = released[labels == label], images[labels == label]
        expected_colour = 255 * torch.tensor(colour, dtype=torch.uint8)
        assert torch.equal(result[:, :, row, column], expected_colour.expand(len(result), 3))
        changed = (result != clean).any(1)
        assert torch.equal(changed.sum((1, 2)), torch.ones(len(result), dtype=torch.int64)), "one pixel per image"
        assert bool(changed[:, row, column].all())
    assert len(set(expected)) == 4, "every pair of position and colour is different"
    assert reference_pixels(images.numpy(), labels.numpy(), 1) == expected[:1]


def test_ops_selects_constant_pixels_first_in_order_of_their_distance_from_the_colour() -> None:
    images, labels = pictures(12, height=3, width=3)
    images[:, :, 0, 1], images[:, :, 2, 0] = 40, 215  # distances of 215, from white and from black
    images[:, :, 1, 2] = 230
    images[labels == 3, :, 1, 2] = 10
    images[:, :, 2, 2] = 255
    images[:4, :, 2, 2] = 254  # a larger distance, but not constant
    released = protect(OPS(), images, labels, HostContext())
    positions = [
        (released != images).any(1)[labels == label].nonzero()[:, 1:].unique(dim=0).tolist() for label in range(4)
    ]
    assert positions[0] == [[1, 2]]
    assert sorted(positions[1:3]) == [[[0, 1]], [[2, 0]]]
    assert positions[3] == [[1, 2]]
    assert released[labels == 0, :, 1, 2].unique().tolist() == [0]
    assert released[labels == 3, :, 1, 2].unique().tolist() == [255]


def test_ops_accepts_grey_images_and_classes_without_images() -> None:
    images, labels = pictures(20, channels=1)
    images, labels = images[labels != 1], labels[labels != 1]
    released = protect(OPS(), images, labels, HostContext())
    assert int((released != images).sum()) == len(images)


@pytest.mark.parametrize(("size", "channels"), [(3, 3), (5, 1)])
def test_cuda_is_a_correlation_with_the_filter_of_the_class_divided_by_the_largest_value(
    size: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "BATCH", 7)
    images, labels = pictures(20, channels=channels, height=7, width=5)
    noise = CUDA(size=size)
    torch.manual_seed(8)
    released = protect(noise, images, labels, HostContext())
    torch.manual_seed(8)
    filters = noise.draw_filters(HostContext()).double().numpy()
    for image, label, result in zip(images.numpy(), labels.tolist(), released, strict=True):
        filtered = np.stack([ndimage.correlate(plane / 255, filters[label], mode="constant") for plane in image])
        exact = torch.from_numpy(255 * filtered / filtered.max())
        assert float((result - exact).abs().max()) <= 0.5 + 1e-4, "rounded to the nearest value"
        assert int(result.max()) == 255


def test_cuda_filters_have_one_random_weight_of_1_and_the_others_below_the_bound() -> None:
    class ManyClasses(HostContext):
        classes = 400

    torch.manual_seed(0)
    filters = CUDA(blur=0.2).draw_filters(ManyClasses()).flatten(1)
    is_one = filters == 1
    assert torch.equal(is_one.sum(1), torch.ones(400, dtype=torch.int64))
    assert bool(is_one.any(0).all()), "at every position"
    others = filters[~is_one]
    assert 0 <= float(others.min()) < 0.01
    assert 0.19 < float(others.max()) <= 0.2
    assert float(others.mean()) == pytest.approx(0.1, abs=0.005)


def test_a_black_image_stays_black_in_cuda() -> None:
    images, labels = pictures(4)
    images[2] = 0
    released = protect(CUDA(), images, labels, HostContext())
    assert int(released[2].max()) == 0
    assert released[[0, 1, 3]].amax((1, 2, 3)).tolist() == [255] * 3


def test_cuda_refuses_a_filter_without_a_middle() -> None:
    with pytest.raises(UserError, match="cuda: size must be odd, not 4"):
        CUDA(size=4)


def loss(net: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    with kit.frozen(net):
        return float(F.cross_entropy(net(images.float() / 255), labels))


@pytest.mark.parametrize("norm", [{"norm": "l2", "radius": 2.0}, {"norm": "linf", "radius": 0.1}])
def test_hypo_lowers_the_loss_of_the_true_class_on_released_images_and_tap_raises_it(norm: dict[str, Any]) -> None:
    net, (images, labels) = surrogate().float(), pictures()
    noise = HYPO(victim=VICTIM, batch=10, **norm)
    released = protect(noise, images, labels, HostContext(net))
    tap_released = protect(
        TAP(radius=0.1, victim=VICTIM, noise_steps=40, noise_step=0.1), images, labels, HostContext(net)
    )
    clean = loss(net, images, labels)
    assert loss(net, released, labels) < 0.95 * clean
    assert loss(net, tap_released, labels) > clean
    change = changes(images, released).double() / 255
    limit = noise.budget((3, 6, 6))
    sizes = change.flatten(1).norm(dim=1) if limit.norm == "l2" else change.abs().amax((1, 2, 3))
    assert float(sizes.max()) <= limit.radius * (1 + 1e-5)
    assert float(sizes.max()) > 0.9 * limit.radius


@pytest.mark.parametrize("norm", [{"norm": "l2"}, {"norm": "linf", "radius": 8 / 255}])
def test_hypo_steps_equal_the_algorithm_in_plain_steps(norm: dict[str, Any]) -> None:
    net, (images, labels) = surrogate(), data()
    noise = HYPO(victim=VICTIM, noise_steps=7, **norm)
    delta = noise.make(images, labels, HostContext(net))
    limit = noise.budget((3, 6, 6))
    net.eval()
    point = images.clone()
    for _ in range(7):
        leaf = point.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
        if limit.norm == "l2":
            gradient = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
            change = point - 0.2 * limit.radius * gradient - images
            change = change * (limit.radius / change.flatten(1).norm(dim=1)[:, None, None, None]).clamp(max=1)
        else:
            change = (point - 0.2 * limit.radius * gradient.sign() - images).clamp(-limit.radius, limit.radius)
        point = (images + change).clamp(0, 1)
    assert torch.equal(delta, kit.to_steps(point - images, limit))


def test_hypo_needs_100_passes_per_batch_on_a_network_trained_on_the_clean_set() -> None:
    images, labels = data()
    images = images.float()
    net = RecordingNetwork(VICTIM.build((3, 6, 6), 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    context = HostContext(net)
    noise = HYPO(victim=VICTIM, batch=8)
    noise.make(images, labels, context)
    assert context.requested == (VICTIM, True)
    assert list(noise.victims()) == [VICTIM]
    assert [len(batch) for batch in net.attacked] == [8] * 100 + [4] * 100
    assert noise.passes(12) == {VICTIM: sum(len(batch) for batch in net.attacked)}
    assert torch.equal(net.attacked[0], images[:8])
    assert not net.trained_on
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_hypo_refuses_its_l2_radius_in_linf() -> None:
    with pytest.raises(UserError, match=r"hypo: in linf, radius must be below 0\.5, such as 8/255, not 0.5"):
        HYPO(norm="linf")


@pytest.mark.parametrize(("suite", "scale"), [("cifar10", 1), ("cifar10-small", 1), ("demo", 4)])
def test_suites_give_l2_noises_a_separate_radius(suite: str, scale: float) -> None:
    """The L-inf radius of a suite does not apply to them; the embedded digits have four times the papers' budgets."""
    for name, radius in (("ar", 1.0), ("hypo", 0.5)):
        noise = registry().build("noise", name, read_suite(suite).defaults)
        assert noise.radius == scale * radius  # type: ignore[attr-defined]
    assert (noise.noise_steps, noise.noise_step) == (100, 0.2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "noise", [AR(candidates=20), HYPO(victim=VICTIM, batch=4, noise_steps=2)], ids=lambda noise: noise.name
)
def test_an_interrupted_noise_ends_with_the_same_values(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(HostContext):
        """Runs the steps from `first` up to, but not including, `last`."""

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

    def make(context: HostContext) -> Tensor:
        torch.manual_seed(5)
        return noise.make(images, labels, context)

    uninterrupted = make(HostContext())
    context = Interrupted()
    partial = make(context)
    assert not partial[8:].any()
    assert torch.equal(partial[:8], uninterrupted[:8])
    context.first, context.last = 2, 4
    assert torch.equal(make(context), uninterrupted)
    assert uninterrupted[8:].any()


@pytest.mark.parametrize(
    "noise", [AR(candidates=20), OPS(), CUDA(), HYPO(victim=VICTIM, noise_steps=2)], ids=lambda noise: noise.name
)
def test_8_bit_and_float_images_give_the_same_noise(noise: Noise) -> None:
    images, labels = pictures()
    torch.manual_seed(5)
    first = noise.make(images.float() / 255, labels, HostContext())
    torch.manual_seed(5)
    assert torch.equal(first, noise.make(kit.Pixels(images, torch.device("cpu")), labels, HostContext()))  # type: ignore[arg-type]
