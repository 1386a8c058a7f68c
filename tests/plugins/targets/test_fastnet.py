"""fastnet: layers, initial weights, learning rates, and training on grey images for a test on colour images."""

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


def count_weights(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters() if value.requires_grad)


def test_the_number_of_weights_follows_from_the_widths() -> None:
    def count(*widths: int) -> int:
        inputs, total = 24, 24 * (3 * 2 * 2 + 1)
        for width in widths:
            total += 9 * inputs * width + 9 * width * width + 2 * width
            inputs = width
        return total + 10 * inputs

    assert count_weights(FastNet().build((3, 32, 32), 10)) == count(64, 128, 256)
    wide = count_weights(FastNet(width_2=256).build((3, 32, 32), 10))
    assert wide == count(64, 256, 256)
    assert round(wide / 1e6, 2) == 1.97, "the number of airbench94"


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 8, 8), (4, 2, 2), (3, 64, 48)], ids=str)
def test_images_can_have_any_size_and_number_of_channels(shape: tuple[int, int, int]) -> None:
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


def test_logits_are_the_last_layer_divided_by_nine() -> None:
    torch.manual_seed(0)
    net = FastNet(width_1=8, width_2=8, width_3=8).build((3, 32, 32), 10).eval()
    outputs: list[Tensor] = []
    linear = next(layer for layer in net.modules() if isinstance(layer, nn.Linear))
    linear.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    logits = net(torch.rand(2, 3, 32, 32))
    assert linear.bias is None
    assert torch.allclose(logits * 9, outputs[0])


def test_batch_norm_learns_shifts_only_at_64_times_the_rate() -> None:
    net = build_network(FastNet(width_1=4, width_2=4, width_3=4), (3, 32, 32), 10, "fp32", HOST, 0)
    before = {name: value.clone() for name, value in net.named_parameters()}
    recipe = Recipe(batch=8, lr=1e-3, momentum=0, weight_decay=0, schedule="constant")
    training = Training(net, recipe, 8, seed=0)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    loss = nn.functional.cross_entropy(net(images), labels)
    trained = {name: value for name, value in net.named_parameters() if value.requires_grad}
    gradients = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    training.step(0, images, labels)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 6
    for layer in norms:
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))
        assert layer.momentum == 0.4
    shifts = {f"{name}.bias" for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, gradient in gradients.items():
        change = (before[name] - net.state_dict()[name]) / 1e-3
        expected = gradient * (64 if name in shifts else 1)
        assert torch.allclose(change, expected, rtol=0.05, atol=2e-4), name


def tinted_images(count: int, seed: int, strength: float) -> Split:
    """Return images whose class is a brightness pattern; random colours do not change the luma."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    patterns = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(99)) * 0.5
    light = nn.functional.interpolate(patterns[labels], size=(16, 16)) + 0.25
    tint = strength * (2 * torch.rand(count, 3, 4, 4, generator=generator) - 1)
    tint = nn.functional.interpolate(tint, size=(16, 16), mode="bilinear")
    luma = torch.einsum("bchw,c->bhw", tint, torch.tensor([0.299, 0.587, 0.114]))[:, None]
    noise = 0.05 * torch.randn(count, 1, 16, 16, generator=generator)
    return Split(kit.to_bytes(light + tint - luma + noise), labels)


def accuracies_after_grey_training(net: nn.Module, train: Split, test: Split) -> tuple[float, float]:
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


def whiten_first_layer(net: nn.Module, images: Tensor) -> nn.Module:
    """Fix the first layer as airbench does: eigenvectors of 2x2 patches, divided by the roots of their eigenvalues."""
    wrapped: Any = net
    layer = next(module for module in wrapped.modules() if isinstance(module, nn.Conv2d))
    normalised = wrapped.network[0](kit.to_float(images))
    patches = nn.functional.unfold(normalised, 2).movedim(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.view(12, 3, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([filters, -filters]))
        layer.bias.zero_()
    layer.requires_grad_(False)
    return net


def small_fastnet() -> nn.Module:
    return build_network(FastNet(width_1=16, width_2=16, width_3=16), (3, 16, 16), 4, "fp32", HOST, 0)


def test_grey_training_loses_little_accuracy_on_colour_images() -> None:
    grey, colour = accuracies_after_grey_training(
        small_fastnet(), tinted_images(512, 0, 0.2), tinted_images(256, 1, 0.2)
    )
    assert grey > 0.95
    assert colour > grey - 0.05


def test_a_whitened_first_layer_loses_far_more() -> None:
    train, test = tinted_images(512, 0, 0.3), tinted_images(256, 1, 0.3)
    grey, colour = accuracies_after_grey_training(small_fastnet(), train, test)
    whitened_grey, whitened_colour = accuracies_after_grey_training(
        whiten_first_layer(small_fastnet(), Grayscale().compress(train.images)), train, test
    )
    assert min(grey, whitened_grey) > 0.95
    assert whitened_grey - whitened_colour > 2 * (grey - colour)


def test_the_suite_trains_fastnet_by_the_quick_recipe() -> None:
    suite = read_suite("cifar10-fast")
    assert resolve_recipe(suite) == resolve_recipe(suite, "quick")
    assert registry().build("target", suite.targets[0], suite.defaults) == FastNet()
    surrogates = {values.get("surrogate") for values in suite.defaults["noise"].values()} - {None}
    assert surrogates == {"resnet8"}, "no surrogate has the architecture of the target"
