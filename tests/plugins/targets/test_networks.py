"""The published networks have the layers and the parameter counts of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import pytest
import torch
from torch import Tensor, fx, nn
from torchvision import models

from uebench import Target, UserError
from uebench.authoring.check import check_component
from uebench_plugins.targets.densenet import DenseNet121, DenseNet121CIFAR
from uebench_plugins.targets.residual_blocks import Bottleneck
from uebench_plugins.targets.resnet import ResNet8, ResNet18, ResNet50
from uebench_plugins.targets.resnet_imagenet import ResNet18ImageNet
from uebench_plugins.targets.vgg import VGG16
from uebench_plugins.targets.wrn import WRN34x10

COUNTS = [  # parameters at 10 and 100 classes, billions of multiply-adds at 32x32 and 224x224
    (VGG16(), 15_253_578, 15_299_748, "0.314", "15.3"),
    (ResNet18(), 11_173_962, 11_220_132, "0.555", "27.2"),
    (ResNet50(), 23_520_842, 23_705_252, "1.30", "63.6"),
    (DenseNet121(), 6_964_106, 7_056_356, "0.058", "2.83"),
    (WRN34x10(), 46_162_714, 46_220_404, "6.66", "326"),
    # not in the papers: the counts of torchvision, and of DenseNet-121 in pytorch-cifar
    (ResNet18ImageNet(), 11_181_642, 11_227_812, "0.037", "1.81"),
    (DenseNet121CIFAR(), 6_956_298, 7_048_548, "0.888", "43.5"),
]
Layer = TypeVar("Layer", bound=nn.Module)
TARGETS = [row[0] for row in COUNTS]
every = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def build(target: Target, size: int = 32, channels: int = 3, classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return target.build((channels, size, size), classes)


@cache
def build_on_meta(target: Target, channels: int = 3, classes: int = 10) -> nn.Module:
    """Return the network in eval mode on the meta device: shapes and counts without memory for weights."""
    with torch.device("meta"):
        return build(target, channels=channels, classes=classes).eval()


def meta_image(size: int, width: int | None = None, channels: int = 3) -> Tensor:
    """Return an image on the meta device."""
    return torch.empty(1, channels, size, width or size, device="meta")


def layers(network: nn.Module, kind: type[Layer]) -> list[Layer]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def weight_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def count_multiply_adds(network: nn.Module, size: int) -> int:
    """Return the multiply-adds of all convolutions and linear layers for one image."""
    counts: list[int] = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, output: counts.append(output.numel() * layer.weight[0].numel())
        )
        for layer in weight_layers(network)
    ]
    assert network(meta_image(size)).shape == (1, 10)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def list_operations(network: nn.Module) -> list[str]:
    """Return the operations in order; convolutions with kernel size, stride and output channels."""
    traced = fx.symbolic_trace(network)
    names: list[str] = []
    for node in traced.graph.nodes:
        if node.op == "call_module":
            layer = traced.get_submodule(node.target)
            name = type(layer).__name__.lower()
            if isinstance(layer, nn.Conv2d):
                name = f"conv{layer.kernel_size[0]}/{layer.stride[0]} {layer.out_channels}"
            names.append(name)
        elif node.op == "call_function":
            names.append(node.target.__name__)
    return names


def copy_weights(network: nn.Module, other: nn.Module) -> None:
    """Copy all weights and buffers, in their order, into a network whose layers have other names."""
    values, names = network.state_dict().values(), other.state_dict()
    other.load_state_dict(dict(zip(names, values, strict=True)))


def assert_equal_logits(network: nn.Module, other: nn.Module, size: int = 32) -> None:
    """Assert that two networks give the same logits; the second takes images centred at 0."""
    for layer in layers(network, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    copy_weights(network, other)
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), other.eval()(images - 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("target", "ten", "hundred", "small", "large"), COUNTS, ids=[row[0].name for row in COUNTS])
def test_counts_equal_the_published_counts(target: Target, ten: int, hundred: int, small: str, large: str) -> None:
    for classes, parameters in ((10, ten), (100, hundred)):
        assert sum(weight.numel() for weight in build_on_meta(target, classes=classes).parameters()) == parameters
    for size, billions in ((32, small), (224, large)):
        decimals = len(billions.partition(".")[2])
        assert f"{count_multiply_adds(build_on_meta(target), size) / 1e9:.{decimals}f}" == billions


@pytest.mark.parametrize("target", [VGG16(), DenseNet121()], ids=lambda target: target.name)
def test_the_contract_is_kept_at_32x32(target: Target) -> None:
    assert [finding for finding in check_component("target", target) if not finding.kept] == []


@every
def test_weights_come_from_the_seed_and_gradients_reach_the_centred_image(target: Target) -> None:
    network = build(target, seed=1)
    first, second = (dict(model.named_parameters()) for model in (network, build(target, seed=2)))
    for name, weight in first.items():
        assert weight.ndim == 1 or not torch.equal(weight, second[name]), name
    inputs: list[Tensor] = []
    layers(network, nn.Conv2d)[0].register_forward_hook(lambda layer, arguments, output: inputs.append(arguments[0]))
    size = 32 if isinstance(target, VGG16 | DenseNet121) else 8
    images = torch.rand(1, 3, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.eval()(images).square().sum(), images)
    assert gradient.abs().sum() > 0
    assert torch.equal(inputs[0], images - 0.5)


@every
def test_batch_norm_has_the_default_settings(target: Target) -> None:
    norms = layers(build_on_meta(target), nn.BatchNorm2d)
    assert norms
    for norm in norms:
        assert (norm.eps, norm.momentum, norm.affine, norm.track_running_stats) == (1e-5, 0.1, True, True)


@every
def test_grey_images_are_accepted(target: Target) -> None:
    assert build_on_meta(target, channels=1)(meta_image(32, channels=1)).shape == (1, 10)


@pytest.mark.parametrize(("target", "minimum"), [(VGG16(), 32), (DenseNet121(), 29), (DenseNet121CIFAR(), 8)])
def test_only_images_below_the_minimum_size_are_refused(target: Target, minimum: int) -> None:
    network = build_on_meta(target)
    assert network(meta_image(minimum)).shape == (1, 10)
    with pytest.raises(RuntimeError, match=r"too small|non-negative|Output size"):
        network(meta_image(minimum - 1, minimum))
    message = f"{target.name}: images must be at least {minimum}x{minimum} pixels, not {minimum - 1}x{minimum}"
    with pytest.raises(UserError, match=f"^{message}$"):
        target.build((3, minimum - 1, minimum), 10)


@pytest.mark.parametrize(
    "target", [ResNet18(), ResNet50(), WRN34x10(), ResNet18ImageNet()], ids=lambda target: target.name
)
def test_residual_networks_take_any_size(target: Target) -> None:
    assert build_on_meta(target)(meta_image(1, 3)).shape == (1, 10)


@pytest.mark.parametrize(("target", "width", "depths"), [(ResNet18(), 64, (2, 2, 2, 2)), (ResNet8(), 16, (1, 1, 1))])
def test_recorded_networks_draw_their_weights_in_the_same_order(
    target: Target, width: int, depths: tuple[int, ...]
) -> None:
    network = build(target, seed=5)
    torch.manual_seed(5)
    drawn: list[nn.Conv2d | nn.Linear] = [nn.Conv2d(3, width, 3, bias=False)]
    inputs = width
    for stage, depth in enumerate(depths):
        outputs = width * 2**stage
        for _ in range(depth):
            drawn += [nn.Conv2d(inputs, outputs, 3, bias=False), nn.Conv2d(outputs, outputs, 3, bias=False)]
            if inputs != outputs:
                drawn.append(nn.Conv2d(inputs, outputs, 1, bias=False))
            inputs = outputs
    drawn.append(nn.Linear(inputs, 10))
    for layer, expected in zip(weight_layers(network), drawn, strict=True):
        assert torch.equal(layer.weight, expected.weight)
    names = [name for name, _ in network.named_parameters()]
    assert names[:6] == ["1.weight", "2.weight", "2.bias", "4.conv1.weight", "4.bn1.weight", "4.bn1.bias"]
    assert f"{4 + depths[0]}.shortcut.0.weight" in names


def test_resnet18_equals_torchvisions_except_for_the_stem() -> None:
    other = models.resnet18(weights=None, num_classes=10)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    assert_equal_logits(build(ResNet18()), other)


def test_resnet50_equals_torchvisions_except_for_the_stem() -> None:
    other = models.resnet50(weights=None, num_classes=10)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    network = build(ResNet50())
    assert_equal_logits(network, other, size=16)
    blocks = layers(network, Bottleneck)
    assert [block.conv2.stride[0] for block in blocks] == [1] * 3 + [2] + [1] * 3 + [2] + [1] * 5 + [2] + [1] * 2
    assert {block.conv1.stride[0] * block.conv3.stride[0] for block in blocks} == {1}


def test_vgg16_equals_torchvisions_except_for_the_head() -> None:
    features = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        head += [nn.Dropout(0.5), nn.Linear(512, 512), nn.ReLU()]
    assert_equal_logits(build(VGG16()), nn.Sequential(features, *head, nn.Linear(512, 10)), size=64)


def test_vgg16_has_the_initialisation_of_the_paper() -> None:
    network = build(VGG16())
    for layer in layers(network, nn.Conv2d):
        weight, expected = layer.weight, math.sqrt(2 / (9 * layer.out_channels))
        error = expected / math.sqrt(2 * weight.numel())
        assert abs(weight.std() - expected) < 5 * error
        assert weight.abs().max() > 3 * expected, "normal, not uniform"
        assert layer.bias is not None
        assert not layer.bias.any()
    for linear in layers(network, nn.Linear):
        for value in linear.parameters():
            largest = value.abs().max() * math.sqrt(512)
            assert 0.7 < largest <= 1 + 1e-6, "PyTorch's default: uniform within 1 / sqrt(inputs)"


def test_vgg16_uses_dropout_in_training_only() -> None:
    network = build(VGG16())
    assert [layer.p for layer in layers(network, nn.Dropout)] == [0.5, 0.5]
    features = torch.rand(4, 512)
    head = nn.Sequential(*list(network.children())[-7:])
    assert list_operations(head) == ["dropout", "linear", "relu", "dropout", "linear", "relu", "linear"]
    assert not torch.equal(head(features), head(features))
    network.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("target", [ResNet50(), WRN34x10(), DenseNet121CIFAR()], ids=lambda target: target.name)
def test_convolutions_have_pytorchs_default_initialisation(target: Target) -> None:
    network = build(target)
    for layer in weight_layers(network):
        weight = layer.weight.detach()
        bound = 1 / math.sqrt(weight[0].numel())
        assert 0.95 * bound < weight.abs().max() <= bound * (1 + 1e-6)
        assert abs(weight.std() * math.sqrt(3) / bound - 1) < 0.05


def block_operations(width: int, stride: int, shortcut: bool) -> Iterator[str]:
    """Yield the operations of a post-activation basic block."""
    yield from (f"conv3/{stride} {width}", "batchnorm2d", "relu", f"conv3/1 {width}", "batchnorm2d")
    if shortcut:
        yield from (f"conv1/{stride} {width}", "batchnorm2d")
    yield from ("add", "relu")


def test_wrn_has_post_activation_blocks_and_nothing_else() -> None:
    expected = ["sub", "conv3/1 16", "batchnorm2d", "relu"]
    for width, stride in ((160, 1), (320, 2), (640, 2)):
        expected += block_operations(width, stride, shortcut=True)
        for _ in range(4):
            expected += block_operations(width, 1, shortcut=False)
    assert list_operations(build_on_meta(WRN34x10())) == [*expected, "adaptiveavgpool2d", "flatten", "linear"]


@pytest.mark.parametrize(
    ("target", "maker"),
    [(DenseNet121(), models.densenet121), (ResNet18ImageNet(), models.resnet18)],
    ids=["densenet121", "resnet18-imagenet"],
)
def test_networks_of_torchvision_are_unchanged(target: Target, maker: Callable[..., nn.Module]) -> None:
    network = build(target)
    torch.manual_seed(0)
    other = maker(weights=None, num_classes=10)
    assert all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))
    assert repr(list(network.children())[1]) == repr(other)
    assert_equal_logits(network, other)


@pytest.mark.parametrize("target", [DenseNet121(), ResNet18ImageNet()], ids=lambda target: target.name)
def test_a_stem_for_grey_images_has_the_initialisation_of_a_colour_stem(target: Target) -> None:
    grey, colour = (layers(build(target, channels=channels), nn.Conv2d)[0] for channels in (1, 3))
    assert (grey.kernel_size, grey.stride, grey.padding) == (colour.kernel_size, colour.stride, colour.padding)
    assert grey.bias is None
    by_inputs = target.name == "densenet121"  # torchvision scales DenseNets by inputs, residual networks by outputs
    assert grey.weight.std().item() == pytest.approx(math.sqrt(2 / (49 * (1 if by_inputs else 64))), rel=0.05)
    ratio = (grey.weight.std() / colour.weight.std()).item()
    assert ratio == pytest.approx(math.sqrt(3) if by_inputs else 1, rel=0.05)


@pytest.mark.parametrize(("target", "sides"), [(DenseNet121(), [8, 4, 2, 1]), (DenseNet121CIFAR(), [32, 16, 8, 4])])
def test_dense_blocks_have_the_published_map_sizes(target: Target, sides: list[int]) -> None:
    network, sizes = build_on_meta(target), []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[2:]))
        for name, layer in network.named_modules()
        if name.rpartition(".")[2].startswith("denseblock")
    ]
    network(meta_image(32))
    for hook in hooks:
        hook.remove()
    assert sizes == [(side, side) for side in sides]


def test_the_small_stem_of_densenet_is_one_convolution() -> None:
    steps = list_operations(build_on_meta(DenseNet121CIFAR()))
    assert steps[:9] == ["sub", "conv3/1 64", *["identity"] * 3, "cat", "batchnorm2d", "relu", "conv1/1 128"]
    assert not {"maxpool2d", "dropout"} & set(steps)


def test_only_the_form_for_imagenet_has_the_large_stem() -> None:
    small, large = build_on_meta(ResNet18()), build_on_meta(ResNet18ImageNet())
    assert list_operations(small)[:4] == ["sub", "conv3/1 64", "batchnorm2d", "relu"]
    assert list_operations(large)[:5] == ["sub", "conv7/2 64", "batchnorm2d", "relu", "maxpool2d"]
    assert not layers(small, nn.MaxPool2d)
