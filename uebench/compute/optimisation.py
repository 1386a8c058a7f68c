"""The optimisation of a network: batch order, learning rate, the training step, and the state for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from uebench.components.interfaces import Rate
from uebench.components.recipe import Recipe
from uebench.compute.cuda_graphs import RecordableWork, WorkResults, run_recorded
from uebench.compute.seeds import derive_seed, random_permutation


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step.

    Schedule `step` divides the rate by ten after 40 % and after 80 % of the steps (REM: 16 000 and 32 000 of 40 000).
    `one-cycle` rises linearly over the first fifth and then falls linearly to zero. `triangle` rises linearly from 0.2
    to 1 times the rate over the first 23 % and then falls to 0.07 (Jordan 2024). `constant` keeps the rate.
    """
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** (5 * step // (2 * recipe.steps))
    if recipe.schedule == "one-cycle":
        done = (step + 1) / (recipe.steps + 1)
        return recipe.lr * min(done / 0.2, (1 - done) / 0.8)
    if recipe.schedule == "triangle":
        done, peak = step / recipe.steps, 0.23
        rise, fall = done / peak, (1 - done) / (1 - peak)
        return recipe.lr * (0.2 + 0.8 * rise if done < peak else 0.07 + 0.93 * fall)
    return recipe.lr


OPTIMISER_STATE = {"momentum": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq", "steps": "step"}
"""The optimiser's state of each parameter: its name in a checkpoint, and torch's name."""
LOOKAHEAD = 0.95**5
"""The weight of the old moving average in an update of look-ahead at the end of training (Jordan 2024)."""


class Training:
    """Train a network by stochastic gradient descent as a recipe says; `seed` sets the order of the `count` images."""

    def __init__(self, network: torch.nn.Module, recipe: Recipe, count: int, seed: int) -> None:
        self.network, self.recipe, self.count, self.seed = network, recipe, count, seed
        self.size = min(recipe.batch, count)
        self.parameters = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(self._groups(), lr=recipe.lr, betas=(recipe.momentum, 0.999))
        else:
            self.optimiser = torch.optim.SGD(
                self._groups(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
            )
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))
        self._averages: dict[str, torch.Tensor] = {}
        if recipe.lookahead:
            self._averages = {name: value.detach().clone() for name, value in self._averaged().items()}

    def _groups(self) -> list[dict[str, Any]]:
        """Group the trainable parameters by their factors of learning rate and weight decay."""
        from uebench.compute.networks import Classifier

        rates = self.network.rates if isinstance(self.network, Classifier) else {}
        linear = [layer for layer in self.network.modules() if isinstance(layer, torch.nn.Linear)]
        hidden = {weight for layer in linear[:-1] for weight in layer.parameters()}
        groups: dict[Rate, list[torch.nn.Parameter]] = {}
        for name, weight in self.parameters.items():
            rate = rates.get(name, Rate())
            factor = rate.lr * (self.recipe.hidden_lr if weight in hidden else 1)
            groups.setdefault(Rate(factor, rate.weight_decay), []).append(weight)
        return [
            {"params": weights, "share": rate.lr, "weight_decay": rate.weight_decay * self.recipe.weight_decay}
            for rate, weights in groups.items()
        ]

    def _averaged(self) -> dict[str, torch.Tensor]:
        """Return the weights and buffers that look-ahead averages: all floating-point ones."""
        return {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}

    def _look_ahead(self, step: int) -> None:
        """Every `lookahead` steps, update the averages with the weights and set the weights to the averages, in place.

        After the last step, set the weights to the averages in any case.
        """
        done, last = step + 1, step + 1 == self.recipe.steps
        average_now = done % self.recipe.lookahead == 0
        if average_now or last:
            share = LOOKAHEAD * (done / self.recipe.steps) ** 3
            for name, value in self._averaged().items():
                if average_now:
                    self._averages[name].lerp_(value, 1 - share)
                value.copy_(self._averages[name])

    def epoch(self, step: int) -> int:
        """Return the epoch of a step, counted from 0."""
        return step // (self.count // self.size)

    def batch(self, step: int) -> torch.Tensor:
        """Return the image indices (b,) of a step; each epoch has a new order and drops its incomplete last batch."""
        epoch, position = self.epoch(step), step % (self.count // self.size)
        if self._order[0] != epoch:
            device = next(iter(self.parameters.values())).device
            order = random_permutation(self.count, derive_seed(self.seed, "order", epoch))
            self._order = epoch, order.to(device, non_blocking=True)
        return self._order[1][position * self.size : (position + 1) * self.size]

    def step(self, step: int, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update the weights once on the cross-entropy; return the loss and the logits (b, classes), both detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * learning_rate(self.recipe, step)
        loss, logits, *gradients = run_recorded(
            _weight_gradients(self.recipe.label_smoothing), self.network, images, targets
        )
        assert loss is not None
        assert logits is not None
        for weight, gradient in zip(self.parameters.values(), gradients, strict=True):
            weight.grad = gradient
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        self.optimiser.step()
        if self.recipe.lookahead:
            self._look_ahead(step)
        return loss, logits

    def state(self) -> dict[str, torch.Tensor]:
        """Return references to weights, buffers, their averages and the optimiser's state, for a checkpoint."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"average.{name}": value for name, value in self._averages.items()}
        for name, weight in self.parameters.items():
            values = self.optimiser.state[weight]
            state |= {
                f"{prefix}.{name}": values[torch_name]
                for prefix, torch_name in OPTIMISER_STATE.items()
                if values.get(torch_name) is not None
            }
        return state

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore a state that `state()` returned; other entries are ignored."""
        weights = {name[8:]: value for name, value in state.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        for name, average in self._averages.items():
            average.copy_(state[f"average.{name}"])
        for name, weight in self.parameters.items():
            for prefix, torch_name in OPTIMISER_STATE.items():
                value = state.get(f"{prefix}.{name}")
                if value is not None:
                    template = value if torch_name == "step" else weight  # torch counts steps on the host
                    self.optimiser.state[weight][torch_name] = torch.empty_like(template).copy_(value)


@cache
def _weight_gradients(smoothing: float) -> RecordableWork:
    """Return the function of one step: loss, logits, and the gradient of the smoothed loss for each trainable weight.

    The loss is the cross-entropy without smoothing, so that recipes can be compared. The gradient of an unused weight
    is None.
    """

    def weight_gradients(network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor) -> WorkResults:
        trainable = [weight for weight in network.parameters() if weight.requires_grad]
        logits = network(images)
        loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
        if smoothing:
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(logits, targets)
        return loss.detach(), logits.detach(), *gradients

    return weight_gradients
