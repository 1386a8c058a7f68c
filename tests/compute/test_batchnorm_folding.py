"""A folded batch norm gives the same outputs and gradients, leaves no trace, and keeps out where it would be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from uebench import Target, kit
from uebench.components.registry import registry
from uebench.compute.batchnorm_folding import batchnorm_folded, prepare_folding

SHAPES = {"resnet18-imagenet": 64, "densenet121": 32, "vgg16": 32}
"""Sides of images that networks want; others take 8."""


def settled(network: nn.Module) -> nn.Module:
    """Return a network in float64 whose batch norms have statistics, weights and biases of their own, in eval mode."""
    draw = torch.Generator().manual_seed(1)
    for one in network.modules():
        if isinstance(one, nn.BatchNorm2d):
            for tensor, low in ((one.running_mean, -0.5), (one.running_var, 0.5), (one.weight, 0.5), (one.bias, -0.5)):
                if tensor is not None:
                    tensor.data = torch.rand(tensor.shape, generator=draw) + low
    return network.double().eval()


def outcome(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and the gradient of their largest, at images."""
    images = images.clone().requires_grad_(True)
    logits = network(images)
    return logits.detach(), torch.autograd.grad(logits.max(1).values.sum(), images)[0]


@pytest.mark.parametrize("name", sorted(registry().entries["target"]))
def test_logits_and_gradients_of_every_target_are_the_same(name: str, pretrained: dict[str, str]) -> None:
    side = SHAPES.get(name, 8)
    torch.manual_seed(0)
    target = registry().build("target", pretrained.get(name, name))
    assert isinstance(target, Target)
    network = settled(target.build((3, side, side), 10))
    trained = [one.requires_grad for one in network.parameters()]
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    before, weights = outcome(network, images), {key: one.clone() for key, one in network.state_dict().items()}
    prepare_folding(network)
    with kit.frozen(network):
        inside = outcome(network, images)
        norms = any(isinstance(one, nn.BatchNorm2d) for one in network.modules())
        assert any("forward" in vars(one) for one in network.modules()) == norms, "nothing is folded"
    for one, other in zip(before, inside, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    after = network.state_dict()
    assert all(torch.equal(one, after[key]) for key, one in weights.items())
    assert not any("forward" in vars(one) for one in network.modules())
    assert all(type(one) is nn.Parameter for one in network.parameters())
    assert [one.requires_grad for one in network.parameters()] == trained


class Residual(nn.Module):
    """A convolution whose output is used before its batch norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return (features + self.norm(features)).mean((2, 3))


class Shared(Residual):
    """A convolution that is used twice, a batch norm after one of them."""

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(images))).mean((2, 3))


class Choosing(Residual):
    """A forward pass that depends on values and cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images))
        return (features if features.sum() > 0 else -features).mean((2, 3))


def watched(norm: nn.BatchNorm2d) -> nn.Module:
    norm.register_forward_hook(lambda *_: None)
    return nn.Sequential(nn.Conv2d(3, 3, 3), norm, nn.Flatten())


LEFT: dict[str, Callable[[], nn.Module]] = {
    "used before": Residual,
    "used twice": Shared,
    "untraceable": Choosing,
    "watched": lambda: watched(nn.BatchNorm2d(3)),
    "no running statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_folded_stays_as_it_is(what: str) -> None:
    torch.manual_seed(0)
    network = settled(LEFT[what]())
    images = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    prepare_folding(network)
    before = outcome(network, images)
    with kit.frozen(network):
        assert all(torch.equal(*both) for both in zip(before, outcome(network, images), strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_bias_and_affine_are_taken_along_and_nesting_folds_once(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    network = settled(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine), nn.Flatten()))
    images = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    prepare_folding(network)
    before = outcome(network, images)
    with kit.frozen(network), kit.frozen(network):
        inside = outcome(network, images)
    assert all(torch.allclose(*both, rtol=1e-9, atol=1e-12) for both in zip(before, inside, strict=True))
    assert all(torch.equal(*both) for both in zip(before, outcome(network, images), strict=True))


def test_a_failure_inside_restores_and_training_mode_is_not_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    prepare_folding(network)
    weight = network[0].weight
    with batchnorm_folded(network):
        assert network[0].weight is weight, "a batch norm in training mode uses the batch's statistics"
    with pytest.raises(RuntimeError, match="channels"), kit.frozen(network):
        network(torch.rand(1, 5, 4, 4))
    assert network[0].weight is weight
    assert "forward" not in vars(network[1])
