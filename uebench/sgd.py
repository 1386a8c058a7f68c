"""A network in training: the order of its batches, its learning rate, the one step, and its state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from uebench import replay
from uebench.recipe import Recipe
from uebench.seeds import derive, permutation


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step.

    `step` divides by ten after 40 % and after 80 % of the steps (REM: 16 000 and 32 000 of 40 000);
    `one-cycle` rises linearly over the first fifth and falls linearly to zero; `constant` does neither.
    """
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** (5 * step // (2 * recipe.steps))
    if recipe.schedule == "one-cycle":
        done = (step + 1) / (recipe.steps + 1)
        return recipe.lr * min(done / 0.2, (1 - done) / 0.8)
    return recipe.lr


KEPT = {"momentum": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq", "steps": "step"}
"""What an optimiser remembers of each parameter: the name in a kept state, and torch's."""


class Training:
    """Stochastic gradient descent on a network by a recipe, over `count` images in an order drawn from `seed`."""

    def __init__(self, network: torch.nn.Module, recipe: Recipe, count: int, seed: int) -> None:
        self.network, self.recipe, self.count, self.seed = network, recipe, count, seed
        self.size = min(recipe.batch, count)
        self.parameters = {name: one for name, one in network.named_parameters() if one.requires_grad}
        usual: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(self._groups(), betas=(recipe.momentum, 0.999), **usual)
        else:
            self.optimiser = torch.optim.SGD(self._groups(), momentum=recipe.momentum, **usual)
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def _groups(self) -> list[dict[str, Any]]:
        """Return what learns, by its share of the learning rate: hidden linear layers have their own."""
        linear = [layer for layer in self.network.modules() if isinstance(layer, torch.nn.Linear)]
        hidden = {one for layer in linear[:-1] for one in layer.parameters()}
        shares = {one: self.recipe.hidden_lr if one in hidden else 1 for one in self.parameters.values()}
        return [
            {"params": [one for one, own in shares.items() if own == share], "share": share}
            for share in dict.fromkeys(shares.values())
        ]

    def batch(self, step: int) -> torch.Tensor:
        """Return the image indices (b,) of a step: a fresh shuffle per epoch, its incomplete last batch dropped."""
        epoch, place = divmod(step, self.count // self.size)
        if self._order[0] != epoch:
            device = next(iter(self.parameters.values())).device
            order = permutation(self.count, derive(self.seed, "order", epoch))
            self._order = epoch, order.to(device, non_blocking=True)
        return self._order[1][place * self.size : (place + 1) * self.size]

    def step(self, step: int, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update the weights once, on cross-entropy; return the loss and the logits (b, classes), both detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * learning_rate(self.recipe, step)
        loss, logits, *slopes = replay.run(_slopes, self.network, images, targets)
        assert loss is not None
        assert logits is not None
        for one, slope in zip(self.parameters.values(), slopes, strict=True):
            one.grad = slope
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        self.optimiser.step()
        return loss, logits

    def state(self) -> dict[str, torch.Tensor]:
        """Return weights, buffers and what the optimiser remembers, by reference."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, one in self.parameters.items():
            known = self.optimiser.state[one]
            state |= {f"{kept}.{name}": known[own] for kept, own in KEPT.items() if known.get(own) is not None}
        return state

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over a state that `state()` gave; other entries are passed over."""
        weights = {name[8:]: value for name, value in state.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        for name, one in self.parameters.items():
            for kept, own in KEPT.items():
                value = state.get(f"{kept}.{name}")
                if value is not None:
                    like = value if own == "step" else one  # torch counts steps on the host
                    self.optimiser.state[one][own] = torch.empty_like(like).copy_(value)


def _slopes(network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor) -> replay.Results:
    """Return loss and logits, and the loss's gradient for each weight that learns: None where it takes no part."""
    learning = [one for one in network.parameters() if one.requires_grad]
    logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return loss.detach(), logits.detach(), *torch.autograd.grad(loss, learning, allow_unused=True)
