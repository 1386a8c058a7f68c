"""The fast path gives the numbers of the plain one: fp32, every layer by itself, gradients of weights and all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import Recipe
from uebench.compute import networks
from uebench.compute.attacks import frozen, pgd
from uebench.compute.optimisation import Training
from uebench.compute.train import build_network
from uebench_plugins.targets.resnet import ResNet8

HOST, RADIUS = torch.device("cpu"), 4 / 255


def plain_pgd(network: nn.Module, images: Tensor, labels: Tensor, start: Tensor, steps: int, step: float) -> Tensor:
    """Return PGD in the L-inf ball as it is written in textbooks."""
    found = start.clone()
    network.eval()
    for _ in range(steps):
        found.requires_grad_(True)
        F.cross_entropy(network(found), labels).backward()
        with torch.no_grad():
            found = found + step * found.grad.sign()  # type: ignore[union-attr]
            found = torch.max(torch.min(found, images + RADIUS), images - RADIUS).clamp(0, 1)
    network.train()
    network.zero_grad()
    return found.detach()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    patterns = torch.rand(4, 3, 16, 16, generator=draw)
    labels = [torch.randint(0, 4, (16,), generator=draw) for _ in range(count)]
    return [((0.5 * patterns[y] + 0.5 * torch.rand(16, 3, 16, 16, generator=draw)), y) for y in labels]


def test_adversarial_training_on_the_fast_path_is_the_plain_one_within_rounding() -> None:
    """Ten steps, four attack steps each; the sign makes a few pixels differ, so weights agree to a thousandth."""
    fast = build_network(ResNet8(), (3, 16, 16), 4, "fp32", HOST, 0)
    plain = copy.deepcopy(fast.network).to(memory_format=torch.contiguous_format)
    training = Training(fast, Recipe(steps=10, batch=16, lr=0.01, schedule="constant"), 16, 0)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    differing = total = 0
    for step, (images, labels) in enumerate(batches(10)):
        torch.manual_seed(step)
        start = (images + torch.empty_like(images).uniform_(-RADIUS, RADIUS)).clamp(0, 1)
        slow = plain_pgd(plain, images, labels, start, 4, RADIUS / 2)
        quick = pgd(fast, images, labels, radius=RADIUS, steps=4, step=RADIUS / 2, start=start)
        differing += int(((slow - quick).abs() > 1e-6).sum())
        total += slow.numel()
        optimiser.zero_grad()
        slow_loss = F.cross_entropy(plain(slow), labels)
        slow_loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss, _ = training.step(step, quick, labels)
        assert float(loss) == pytest.approx(slow_loss.item(), rel=1e-3)
    assert differing / total < 1e-3
    for one, other in zip(fast.network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_bf16_turns_few_signs_of_a_gradient_and_only_where_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack's steps are signs."""
    exact = build_network(ResNet8(), (3, 16, 16), 4, "fp32", HOST, 0)
    training = Training(exact, Recipe(steps=20, batch=16, schedule="one-cycle"), 16, 0)
    for step, (images, labels) in enumerate(batches(20)):
        training.step(step, images, labels)
    monkeypatch.setattr(networks, "has_bf16", lambda device: True)
    rough = build_network(ResNet8(), (3, 16, 16), 4, "bf16", HOST, 0)
    rough.load_state_dict(exact.state_dict())
    slopes = []
    for network in (exact, rough):
        ((images, labels),) = batches(1)
        with frozen(network):
            images.requires_grad_(True)
            slopes.append(torch.autograd.grad(F.cross_entropy(network(images), labels), images)[0])
    same = slopes[0].sign() == slopes[1].sign()
    assert not torch.equal(*slopes)
    assert same.float().mean() > 0.95
    assert (slopes[0].abs() * same).sum() / slopes[0].abs().sum() > 0.99
