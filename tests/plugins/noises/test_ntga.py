"""NTGA's wide networks, gradient flow and folds, compared with independent computations in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import Target, UserError, kit
from uebench_plugins.noises import gradient_flow
from uebench_plugins.noises.gradient_flow import Flow
from uebench_plugins.noises.neural_tangent import CNN, FNN, Kernel
from uebench_plugins.noises.ntga import NTGA, NTGAPGD

WEIGHT, BIAS = 1.76, 0.18
CLASSES = 4
KERNELS = pytest.mark.parametrize("kernel", [FNN(), CNN(2)], ids=["fnn", "cnn"])


def compute_kernel(kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
    """Return the kernel of two sets of images."""
    return kernel(kernel.inputs(x), kernel.inputs(z))


def pictures(count: int, height: int = 6, width: int = 7, seed: int = 0) -> Tensor:
    """Return 8-bit images as floats; one corner is white in all images, so that some patches are equal."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator).double() / 255
    images[:, :, :3, :4] = 1
    return images


def labels_of(count: int) -> Tensor:
    return torch.arange(count) * 7 % CLASSES


def fnn_kernel_by_quadrature(x: list[float], z: list[float]) -> float:
    """Return the FNN kernel of two vectors, with the expectations over two Gaussians as sums over 150 x 150 nodes."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(150))
    weights = weights / math.sqrt(2 * math.pi)
    kx, k, kz = (
        sum(a * b for a, b in zip(first, second, strict=True)) / len(x) for first, second in ((x, x), (x, z), (z, z))
    )
    tangent = 0.0
    for _ in range(5):
        kx, k, kz = (WEIGHT * covariance + BIAS for covariance in (kx, k, kz))
        tangent = k + WEIGHT * tangent

        def mean(function: Any, first: float, covariance: float, second: float) -> float:
            u = math.sqrt(first) * nodes[:, None]
            residual = math.sqrt(max(second - covariance**2 / first, 0))
            v = covariance / math.sqrt(first) * nodes[:, None] + residual * nodes
            return float(weights @ (function(u) * function(v)) @ weights)

        def erf_derivative(u: Tensor) -> Tensor:
            return 2 / math.sqrt(math.pi) * torch.exp(-u.square())

        tangent *= mean(erf_derivative, kx, k, kz)
        kx, k, kz = mean(torch.erf, kx, kx, kx), mean(torch.erf, kx, k, kz), mean(torch.erf, kz, kz, kz)
    return tangent


def test_the_fnn_kernel_equals_the_layer_recursion_with_quadrature() -> None:
    x, z = pictures(3), pictures(2, seed=1)
    z[1] = x[2]
    computed = compute_kernel(FNN(), x, z)
    expected = [[fnn_kernel_by_quadrature(a.flatten().tolist(), b.flatten().tolist()) for b in z] for a in x]
    assert torch.allclose(computed, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


PADDING_BEFORE = {(6, 2): 1, (7, 2): 2, (3, 2): 2, (4, 2): 1, (7, 3): 2, (8, 3): 1, (3, 3): 1}
"""Padding before the side, by (side, stride): half of (outputs - 1) * stride + 5 - side, rounded down."""

Map = dict[tuple[int, int], float]


def average_windows(values: Map, stride: int, height: int, width: int) -> tuple[Map, int, int]:
    """Average over 5 x 5 windows, pixel by pixel, padded with zeros."""
    rows, columns, averages = math.ceil(height / stride), math.ceil(width / stride), Map()
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride - PADDING_BEFORE[height, stride], column * stride - PADDING_BEFORE[width, stride]
            pixels = [(top + down, left + right) for down in range(5) for right in range(5)]
            averages[row, column] = sum(values.get(pixel, 0.0) for pixel in pixels) / 25
    return averages, rows, columns


def cnn_kernel_by_pixels(x: Tensor, z: Tensor, stride: int) -> float:
    """Return the CNN kernel of two images (c, h, w), with the arc-cosine kernels by angle."""
    _, height, width = x.shape
    maps = [
        {(r, c): float((a[:, r, c] * b[:, r, c]).mean()) for r in range(height) for c in range(width)}
        for a, b in ((x, x), (x, z), (z, z))
    ]
    tangent: Map = {}
    for _ in range(2):
        averages = [average_windows(values, stride, height, width)[0] for values in (*maps, tangent)]
        (_, height, width) = average_windows(tangent, stride, height, width)
        kx, k, kz = ({pixel: WEIGHT * value + BIAS for pixel, value in values.items()} for values in averages[:3])
        tangent = {pixel: k[pixel] + WEIGHT * averages[3][pixel] for pixel in k}
        moments: Map = {}
        for pixel in k:
            norm = math.sqrt(kx[pixel] * kz[pixel])
            cosine = k[pixel] / norm
            angle = 0.0 if cosine > 1 - 1e-13 else math.acos(cosine)
            moments[pixel] = norm * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
            tangent[pixel] *= (math.pi - angle) / (2 * math.pi)
        maps = [{pixel: v / 2 for pixel, v in kx.items()}, moments, {pixel: v / 2 for pixel, v in kz.items()}]
    covariance, total = (sum(values.values()) / len(values) for values in (maps[1], tangent))
    for _ in range(3):
        covariance = WEIGHT * covariance + BIAS
        total = covariance + WEIGHT * total
    return total


@pytest.mark.parametrize(("height", "width", "stride"), [(6, 7, 2), (7, 8, 3)])
def test_the_cnn_kernel_equals_a_computation_pixel_by_pixel(height: int, width: int, stride: int) -> None:
    x, z = pictures(3, height, width), pictures(2, height, width, seed=1)
    z[1] = x[2]
    computed = compute_kernel(CNN(stride), x, z)
    expected = [[cnn_kernel_by_pixels(a, b, stride) for b in z] for a in x]
    assert torch.allclose(computed, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


class NTKLayer(nn.Module):
    """A dense or convolutional layer of finite width in NTK parameterisation."""

    def __init__(self, *shape: int, stride: int = 0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape[0]))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * math.sqrt(WEIGHT / self.weight[0].numel()), self.bias * math.sqrt(BIAS)
        if not self.stride:
            return F.linear(x, weight, bias)
        height, width = x.shape[2:]
        top, left = PADDING_BEFORE[height, self.stride], PADDING_BEFORE[width, self.stride]
        return F.conv2d(F.pad(x, (left, 5, top, 5)), weight, bias, self.stride)[
            :, :, : math.ceil(height / self.stride), : math.ceil(width / self.stride)
        ]


class Erf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


def build_finite_network(kernel: Kernel, width: int) -> nn.Module:
    """Return a wide random network for images of 3 x 6 x 7."""
    if isinstance(kernel, FNN):
        widths = [126, *[width] * 5]
        layers = [layer for a, b in pairwise(widths) for layer in (NTKLayer(b, a), Erf())]
        return nn.Sequential(nn.Flatten(), *layers)
    convolutions = NTKLayer(width, 3, 5, 5, stride=2), nn.ReLU(), NTKLayer(width, width, 5, 5, stride=2), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), NTKLayer(384, width * 4), NTKLayer(192, 384), NTKLayer(30, 192))


@pytest.mark.parametrize(("kernel", "width"), [(FNN(), 700), (CNN(2), 256)], ids=["fnn", "cnn"])
def test_wide_random_networks_have_approximately_these_kernels(kernel: Kernel, width: int) -> None:
    torch.manual_seed(0)
    images = pictures(3)
    total, draws = torch.zeros(3, 3, dtype=torch.float64), 12
    for _ in range(draws // 4):
        network = build_finite_network(kernel, width)
        outputs = network(images.float())
        for _ in range(4):  # random signs estimate the mean over outputs with few backward passes
            signs = torch.randint(0, 2, outputs.shape[1:]) * 2.0 - 1
            gradients = [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(output @ signs, network.parameters(), retain_graph=True)]
                )
                for output in outputs / math.sqrt(outputs.shape[1])
            ]
            total += torch.stack(gradients).double() @ torch.stack(gradients).double().T / draws
    expected = compute_kernel(kernel, images, images)
    assert torch.allclose(total, expected, rtol=0.08), total / expected


@KERNELS
def test_a_kernel_is_symmetric_and_positive_definite(kernel: Kernel) -> None:
    images = pictures(8)
    matrix = compute_kernel(kernel, images, images)
    assert torch.allclose(matrix, matrix.T, atol=1e-13)
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


@KERNELS
def test_the_gradient_of_a_kernel_equals_numerical_differences_also_on_the_diagonal(kernel: Kernel) -> None:
    x, z = pictures(2, seed=3), pictures(2, seed=4)
    assert torch.autograd.gradcheck(lambda images: compute_kernel(kernel, images, z), (x.requires_grad_(True),))
    assert torch.autograd.gradcheck(lambda images: compute_kernel(kernel, z, images), (x,))
    assert torch.autograd.gradcheck(lambda images: compute_kernel(kernel, images, images), (x,))


def build_flow(kernel: Kernel, time: float = 64.0, twins: bool = False) -> tuple[Flow, Tensor, Tensor]:
    """Return a flow on seven images and five validation images, one from the block; with `twins`, three are equal."""
    images, others = pictures(7, seed=5), pictures(5, seed=6)
    others[4] = images[3]
    if twins:
        images[1] = images[2] = images[0]
    flow = Flow(kernel, images, F.one_hot(labels_of(7), CLASSES).double(), time, 1e-4)
    return flow, others, labels_of(5)


def predict_with_matrix_exponential(kernel: Kernel, images: Tensor, time: float, others: Tensor) -> Tensor:
    """Return the outputs, from the matrix exponential and the solution of linear equations."""
    matrix, identity = compute_kernel(kernel, images, images), torch.eye(len(images)).double()
    matrix = matrix + 1e-4 * matrix.trace() / len(images) * identity
    targets = F.one_hot(labels_of(len(images)), CLASSES).double()
    learned = (identity - torch.linalg.matrix_exp(-time / (len(images) * CLASSES) * matrix)) @ targets
    return compute_kernel(kernel, others, images) @ torch.linalg.solve(matrix, learned)


@KERNELS
@pytest.mark.parametrize("time", [0.1, 64.0, 4096.0])
@pytest.mark.parametrize("twins", [False, True])
def test_the_prediction_equals_that_of_the_matrix_exponential(kernel: Kernel, time: float, twins: bool) -> None:
    flow, others, _ = build_flow(kernel, time, twins)
    assert torch.allclose(
        flow.predict(others), predict_with_matrix_exponential(kernel, flow.images, time, others), atol=1e-10, rtol=0
    )


def test_the_prediction_equals_that_of_gradient_descent_with_small_steps() -> None:
    """Descend on half the mean squared error over images and classes, from outputs of 0, by the Runge-Kutta method."""
    flow, others, _ = build_flow(FNN(), time=8.0)
    block_kernel, other_kernel = (
        compute_kernel(FNN(), flow.images, flow.images),
        compute_kernel(FNN(), others, flow.images),
    )
    block_kernel += 1e-4 * block_kernel.diagonal().mean() * torch.eye(7).double()
    targets = F.one_hot(labels_of(7), CLASSES).double()
    kernels, outputs, steps = torch.cat([block_kernel, other_kernel]), torch.zeros(12, CLASSES).double(), 2000

    def change(outputs: Tensor) -> Tensor:
        return kernels @ (targets - outputs[:7]) / targets.numel() * 8.0 / steps

    for _ in range(steps):
        first = change(outputs)
        second = change(outputs + first / 2)
        third = change(outputs + second / 2)
        outputs = outputs + (first + 2 * second + 2 * third + change(outputs + third)) / 6
    assert torch.allclose(flow.predict(others), outputs[7:], atol=1e-10, rtol=0)


@KERNELS
@pytest.mark.parametrize("time", [0.1, 64.0, 4096.0])
@pytest.mark.parametrize("twins", [False, True])
def test_the_gradient_equals_that_of_autograd_through_the_matrix_exponential(
    kernel: Kernel, time: float, twins: bool
) -> None:
    flow, others, labels = build_flow(kernel, time, twins)
    gradient, loss = flow.image_gradient([(others, labels)])
    leaf = flow.images.clone().requires_grad_(True)
    expected_loss = F.cross_entropy(
        predict_with_matrix_exponential(kernel, leaf, time, others), labels, reduction="sum"
    )
    (expected,) = torch.autograd.grad(expected_loss, leaf)
    assert torch.allclose(loss, expected_loss, atol=1e-10)
    assert float((gradient - expected).abs().max()) < 1e-8 * float(expected.abs().max())


@KERNELS
@pytest.mark.parametrize("twins", [False, True])
def test_the_gradient_equals_numerical_differences_of_the_loss(kernel: Kernel, twins: bool) -> None:
    flow, others, labels = build_flow(kernel, twins=twins)
    gradient, _ = flow.image_gradient([(others, labels)])
    torch.manual_seed(0)
    for direction in torch.randn(3, *gradient.shape).double():

        def loss(distance: float, direction: Tensor = direction) -> Tensor:
            shifted = flow.images + distance * direction
            return F.cross_entropy(
                predict_with_matrix_exponential(kernel, shifted, 64.0, others), labels, reduction="sum"
            )

        expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-4)


@KERNELS
def test_the_chunk_size_does_not_change_the_gradient(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, others, labels = build_flow(kernel)
    gradient, loss = whole.image_gradient([(others, labels)])
    monkeypatch.setattr(gradient_flow, "ENTRIES", 2 * 7 * len(kernel.inputs(others)[:, :, 0, 0].flatten()))
    parts, others, labels = build_flow(kernel)
    assert parts.rows == 2 < 7 < whole.rows
    split = zip(others.split(2), labels.split(2), strict=True)
    for computed, expected in zip(parts.image_gradient(split), (gradient, loss), strict=True):
        assert torch.allclose(computed, expected, atol=1e-12)


def test_divided_differences_are_exact_to_ten_digits_for_far_near_and_equal_values() -> None:
    values = [1e-12, 3e-9, 3e-9 * (1 + 1e-7), 9.9e-6, 1.01e-5, 1e-3, 1e-3 + 1e-15, 0.7, 3.0, 3.0 + 1e-13, 40.0, 900.0]
    differences = gradient_flow._divided_differences(torch.tensor(values, dtype=torch.float64))

    def decay(u: Decimal) -> Decimal:
        return (1 - (-u).exp()) / u

    with localcontext() as precise:
        precise.prec = 100
        for row, u in enumerate(values):
            for column, v in enumerate(values):
                a, b = Decimal(u), Decimal(v) if u != v else Decimal(v) + Decimal(10) ** -40
                expected = float((decay(a) - decay(b)) / (a - b))
                assert float(differences[row, column]) == pytest.approx(expected, rel=1e-10), (u, v)


class HostContext:
    """A context on the host that starts at a given step and can be interrupted."""

    device, classes, seed = torch.device("cpu"), CLASSES, 11
    names: tuple[str, ...] = ()

    def __init__(self, begin: int = 0, end: int | None = None, state: Mapping[str, Tensor] | None = None) -> None:
        self.begin, self.end, self.state, self.losses = begin, end, dict(state or {}), list[float]()

    def augment(self, images: Tensor) -> Tensor:
        raise AssertionError("NTGA augments nothing")

    def network(self, target: Target | str, trained: bool = False) -> nn.Module:
        raise AssertionError("NTGA trains no network")

    def steps(self, count: int) -> Iterator[int]:
        for step in range(self.begin, count):
            if step == self.end:
                raise KeyboardInterrupt
            yield step

    def keep(self, *more: Callable[[], Mapping[str, Tensor]], **state: Tensor) -> None:
        self.state = {name: value.clone() for name, value in state.items()}

    def kept(self) -> Mapping[str, Tensor]:
        return self.state

    def tell(self, loss: Tensor) -> None:
        self.losses.append(float(loss))


def pixels(count: int = 23) -> tuple[kit.Pixels, Tensor]:
    """Return 8-bit images as the engine passes them, and their labels."""
    torch.manual_seed(8)
    return kit.Pixels(torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8), HostContext.device), labels_of(count)


SETTINGS: dict[str, Any] = {"folds": 3, "block": 5, "validation": 6}


@pytest.mark.parametrize(("count", "folds", "block"), [(23, 3, 5), (10, 5, 4000), (5, 5, 1), (40, 2, 7)])
def test_every_image_is_protected_once_and_never_validates_its_fold(count: int, folds: int, block: int) -> None:
    noise = NTGA(folds=folds, block=block, validation=6)
    blocks = noise.split_into_blocks(labels_of(count), seed=3)
    assert sorted(torch.cat([index for index, _ in blocks]).tolist()) == list(range(count))
    assert max(len(index) for index, _ in blocks) <= block
    by_validation: dict[tuple[int, ...], set[int]] = {}
    for index, validation in blocks:
        assert 1 <= len(validation) <= 6
        by_validation.setdefault(tuple(validation.tolist()), set()).update(index.tolist())
    assert len(by_validation) == folds  # the blocks of one fold share their validation images
    sizes = sorted(len(fold) for fold in by_validation.values())
    assert sizes[-1] - sizes[0] <= 1
    assert all(not fold & set(validation) for validation, fold in by_validation.items())
    assert not torch.equal(blocks[0][0], noise.split_into_blocks(labels_of(count), seed=4)[0][0])


def ascend_noise(
    noise: NTGA, images: kit.Pixels, labels: Tensor, steps: int, size: float
) -> tuple[Tensor, list[float]]:
    """Return the noise in steps of 1/255, and the losses, of ascent with the matrix exponential and the FNN kernel."""
    delta, losses = torch.zeros(images.shape), list[float]()
    for index, validation in noise.split_into_blocks(labels, HostContext.seed):
        clean, others = images[index].double(), images[validation].double()
        targets = F.one_hot(labels[index], CLASSES).double()
        protected = clean
        for _ in range(steps):
            protected = protected.detach().requires_grad_(True)
            matrix, identity = compute_kernel(FNN(), protected, protected), torch.eye(len(index)).double()
            matrix = matrix + 1e-4 * matrix.trace() / len(index) * identity
            learned = (identity - torch.linalg.matrix_exp(-noise.time / targets.numel() * matrix)) @ targets
            outputs = compute_kernel(FNN(), others, protected) @ torch.linalg.solve(matrix, learned)
            loss = F.cross_entropy(outputs, labels[validation])
            losses.append(float(loss.detach()))
            protected = protected + size * torch.autograd.grad(loss, protected)[0].sign()
            protected = torch.minimum(torch.maximum(protected, clean - noise.radius), clean + noise.radius).clamp(0, 1)
        delta[index] = ((protected - clean) * 255).round().float().detach()
    return delta, losses


def test_ntga_is_one_step_of_the_radius_in_the_order_of_the_images() -> None:
    images, labels = pixels()
    noise, context = NTGA(**SETTINGS), HostContext()
    delta = noise.make(images, labels, context)
    expected, losses = ascend_noise(noise, images, labels, 1, noise.radius)
    assert delta.dtype == torch.int8
    assert delta.shape == images.shape
    assert torch.equal(delta.float(), expected)
    assert context.losses == pytest.approx(losses, rel=1e-10)
    unclipped = (images.kept >= 8) & (images.kept <= 247)
    assert bool((delta.abs()[unclipped] == 8).all())


def test_ntga_pgd_ascends_from_the_clean_block_and_projects_after_each_step() -> None:
    images, labels = pixels()
    noise, context = NTGAPGD(**SETTINGS, noise_steps=4, noise_step=0.4), HostContext()
    expected, losses = ascend_noise(noise, images, labels, 4, 0.4 * noise.radius)
    assert torch.equal(noise.make(images, labels, context).float(), expected)
    assert context.losses == pytest.approx(losses, rel=1e-10)
    assert set(expected.unique().abs().tolist()) >= {8.0, 3.0}


@pytest.mark.parametrize("kernel", ["fnn", "cnn"])
def test_one_full_step_of_ntga_pgd_equals_ntga(kernel: str) -> None:
    images, labels = pixels()
    delta = NTGA(**SETTINGS, kernel=kernel).make(images, labels, HostContext())
    assert torch.equal(
        delta, NTGAPGD(**SETTINGS, kernel=kernel, noise_steps=1, noise_step=1.0).make(images, labels, HostContext())
    )


@pytest.mark.parametrize("noise", [NTGA(**SETTINGS), NTGAPGD(**SETTINGS, kernel="cnn", noise_steps=3, noise_step=0.5)])
def test_the_noise_raises_the_validation_loss_of_each_block(noise: NTGA) -> None:
    images, labels = pixels()
    delta = noise.make(images, labels, HostContext())
    kernel = FNN() if noise.kernel == "fnn" else CNN(2)
    for index, validation in noise.split_into_blocks(labels, HostContext.seed):
        clean, targets = images[index].double(), F.one_hot(labels[index], CLASSES).double()
        before, after = (
            F.cross_entropy(
                Flow(kernel, block, targets, noise.time, 1e-4).predict(images[validation].double()), labels[validation]
            )
            for block in (clean, (clean + delta[index].double() / 255).clamp(0, 1))
        )
        assert float(after) > float(before)


@pytest.mark.parametrize("noise", [NTGA(**SETTINGS), NTGAPGD(**SETTINGS, noise_steps=3)])
def test_an_interrupted_run_ends_with_the_same_noise(noise: NTGA) -> None:
    images, labels = pixels()
    first = HostContext(end=4)
    with pytest.raises(KeyboardInterrupt):
        noise.make(images, labels, first)
    resumed = noise.make(images, labels, HostContext(begin=4, state=first.state))
    assert torch.equal(resumed, noise.make(images, labels, HostContext()))


def test_only_a_block_or_a_chunk_is_fetched_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_flow, "ENTRIES", 10)
    images, labels = pixels()
    fetched: list[int] = []
    original = kit.Pixels.__getitem__

    def record(self: kit.Pixels, index: Tensor) -> Tensor:
        fetched.append(len(index))
        return original(self, index)

    monkeypatch.setattr(kit.Pixels, "__getitem__", record)
    NTGA(**SETTINGS).make(images, labels, HostContext())
    assert max(fetched) <= 5


def test_a_noise_with_a_large_radius_is_int16() -> None:
    images, labels = pixels()
    delta = NTGA(**SETTINGS, radius=0.6).make(images, labels, HostContext())
    assert delta.dtype == torch.int16
    assert int(delta.abs().max()) == 153


def test_fewer_images_than_folds_are_refused() -> None:
    images, labels = pixels(4)
    with pytest.raises(UserError, match="4 training images cannot be split into 5 folds"):
        NTGA().make(images, labels, HostContext())
