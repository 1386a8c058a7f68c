"""fastnet: its shape, its start, its rates, and that grey training does not blind it to colour images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uebench import Recipe, Split, kit
from uebench.components.registry import registry
from uebench.compute.optimisation import Training
from uebench.compute.train import build_network
from uebench.planning.selection import resolve_recipe
from uebench.planning.suite_file import read_suite
from uebench_plugins.breakers.compression import Grayscale
from uebench_plugins.targets.fastnet import FastNet

HOST = torch.device("cpu")


def weights(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters() if value.requires_grad)


def test_it_has_the_weights_that_its_widths_give() -> None:
    def count(*widths: int) -> int:
        inner, total = 24, 24 * (3 * 2 * 2 + 1)
        for outer in widths:
            total += 9 * inner * outer + 9 * outer * outer + 2 * outer
            inner = outer
        return total + 10 * inner

    assert weights(FastNet().build((3, 32, 32), 10)) == count(64, 128, 256)
    wide = weights(FastNet(width_2=256).build((3, 32, 32), 10))
    assert wide == count(64, 256, 256)
    assert round(wide / 1e6, 2) == 1.97, "airbench94's"


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 8, 8), (4, 2, 2), (3, 64, 48)], ids=str)
def test_it_takes_images_of_any_size_and_number_of_channels(shape: tuple[int, int, int]) -> None:
    net = FastNet(width_1=4, width_2=4, width_3=4).build(shape, 7)
    assert net(torch.rand(5, *shape)).shape == (5, 7)


def test_convolutions_start_as_the_identity_on_their_first_channels() -> None:
    net = FastNet(width_1=8, width_2=12, width_3=16).build((1, 32, 32), 10)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)][1:]
    assert len(convolutions) == 6
    for layer in convolutions:
        features = torch.rand(2, layer.in_channels, 5, 5)
        assert torch.equal(layer(features)[:, : layer.in_channels], features)
        assert layer.weight[layer.in_channels :].count_nonzero() == layer.weight[layer.in_channels :].numel()


def test_the_last_layer_sees_the_largest_features_and_logits_are_a_ninth() -> None:
    torch.manual_seed(0)
    net = FastNet(width_1=8, width_2=8, width_3=8).build((3, 32, 32), 10).eval()
    seen: list[Tensor] = []
    linear = next(layer for layer in net.modules() if isinstance(layer, nn.Linear))
    linear.register_forward_hook(lambda layer, given, out: seen.append(out))
    logits = net(torch.rand(2, 3, 32, 32))
    assert linear.bias is None
    assert torch.allclose(logits * 9, seen[0])


def test_batch_norm_learns_shifts_only_at_64_times_the_rate() -> None:
    net = build_network(FastNet(width_1=4, width_2=4, width_3=4), (3, 32, 32), 10, "fp32", HOST, 0)
    before = {name: value.clone() for name, value in net.named_parameters()}
    recipe = Recipe(batch=8, lr=1e-3, momentum=0, weight_decay=0, schedule="constant")
    training = Training(net, recipe, 8, seed=0)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    loss = nn.functional.cross_entropy(net(images), labels)
    learning = {name: value for name, value in net.named_parameters() if value.requires_grad}
    gradients = dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))
    training.step(0, images, labels)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 6
    for layer in norms:
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))
        assert layer.momentum == 0.4
    shifts = {f"{name}.bias" for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, gradient in gradients.items():
        way = (before[name] - net.state_dict()[name]) / 1e-3
        expected = gradient * (64 if name in shifts else 1)
        assert torch.allclose(way, expected, rtol=0.05, atol=2e-4), name


def tinted(count: int, seed: int, strength: float) -> Split:
    """Return images whose class is a pattern of light and dark; colours say nothing and leave the luma as it is."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    patterns = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(99)) * 0.5
    light = nn.functional.interpolate(patterns[labels], size=(16, 16)) + 0.25
    tint = strength * (2 * torch.rand(count, 3, 4, 4, generator=draw) - 1)
    tint = nn.functional.interpolate(tint, size=(16, 16), mode="bilinear")
    luma = torch.einsum("bchw,c->bhw", tint, torch.tensor([0.299, 0.587, 0.114]))[:, None]
    noise = 0.05 * torch.randn(count, 1, 16, 16, generator=draw)
    return Split(kit.to_bytes(light + tint - luma + noise), labels)


def grey_then_colour(net: nn.Module, train: Split, test: Split) -> tuple[float, float]:
    """Train on grey copies; return the accuracies on grey and on colour test images."""
    images = Grayscale().compress(train.images)
    recipe = Recipe(steps=60, batch=64, lr=0.1, momentum=0.85, schedule="triangle", label_smoothing=0.2)
    training = Training(net, recipe, len(images), seed=0)
    for step in range(recipe.steps):
        index = training.batch(step)
        training.step(step, kit.to_float(images[index]), train.labels[index])

    def accuracy(images: Tensor) -> float:
        with kit.frozen(net):
            return float((net(kit.to_float(images)).argmax(1) == test.labels).float().mean())

    return accuracy(Grayscale().compress(test.images)), accuracy(test.images)


def whitened(net: nn.Module, images: Tensor) -> nn.Module:
    """Set the first layer as airbench does: eigenvectors of 2x2 patches over the roots of their eigenvalues; fixed."""
    inner: Any = net
    layer = next(module for module in inner.modules() if isinstance(module, nn.Conv2d))
    normal = inner.network[0](kit.to_float(images))
    patches = nn.functional.unfold(normal, 2).movedim(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.view(12, 3, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([filters, -filters]))
        layer.bias.zero_()
    layer.requires_grad_(False)
    return net


def small() -> nn.Module:
    return build_network(FastNet(width_1=16, width_2=16, width_3=16), (3, 16, 16), 4, "fp32", HOST, 0)


def test_grey_training_loses_little_on_colour_images() -> None:
    grey, colour = grey_then_colour(small(), tinted(512, 0, 0.2), tinted(256, 1, 0.2))
    assert grey > 0.95
    assert colour > grey - 0.05


def test_a_whitened_first_layer_would_lose_far_more() -> None:
    train, test = tinted(512, 0, 0.3), tinted(256, 1, 0.3)
    grey, colour = grey_then_colour(small(), train, test)
    trapped_grey, trapped_colour = grey_then_colour(whitened(small(), Grayscale().compress(train.images)), train, test)
    assert min(grey, trapped_grey) > 0.95
    assert trapped_grey - trapped_colour > 2 * (grey - colour)


def test_the_suite_trains_it_by_the_quick_recipe() -> None:
    suite = read_suite("cifar10-fast")
    assert resolve_recipe(suite) == resolve_recipe(suite, "quick")
    assert registry().build("target", suite.targets[0], suite.defaults) == FastNet()
    surrogates = {values.get("surrogate") for values in suite.defaults["noise"].values()} - {None}
    assert surrogates == {"resnet8"}, "no noise is made against the network that it is to stop"
