"""The parts that the official code of EM shares between sample-wise and class-wise noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from uebench import Context, kit

SLACK = 1e-3
"""The largest rounding error of float32 in a whole step of 1/255, in steps."""


def take_rounds(
    context: Context,
    *,
    rounds: int,
    learn: int,
    sweep: Sequence[torch.Tensor],
    train: Callable[[int], None],
    descend: Callable[[torch.Tensor], None],
    error: Callable[[], float],
    stop_error: float,
    keep: Callable[[], None],
) -> None:
    """Take rounds of `learn` training steps and one noise step for each batch, until the surrogate's error is low.

    `train(step)` takes a training step, numbered over all rounds. `descend(index)` updates the noise of a batch.
    `error()` returns the error rate of the surrogate; it is called at the end of each round. `keep()` offers the state
    for a checkpoint at the end of every step.
    """
    length = learn + len(sweep)
    for step in context.steps(rounds * length):
        turn, place = divmod(step, length)
        if place < learn:
            train(turn * learn + place)
        else:
            descend(sweep[place - learn])
        if place == length - 1 and error() <= stop_error:
            break
        keep()


def descend(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    noise: torch.Tensor,
    *,
    radius: float,
    steps: int,
    step: float,
) -> torch.Tensor:
    """Return the noise (b, c, h, w) of a batch after descent steps from `noise`, all in pixel range.

    Each step starts from the image that the noise gives, clipped to [0, 1], and is cut to the radius. The last is not
    clipped, so x + noise may leave [0, 1] by one step.
    """
    with kit.frozen(network):
        for _ in range(steps):
            point = (images + noise).clamp(0, 1)
            _, slope = kit.slope(network, point, labels)
            noise = (point - step * slope.sign() - images).clamp(-radius, radius)
    return noise


def error_rate(network: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the share of images that a network in eval mode gives a wrong class."""
    wrong, count = torch.zeros((), dtype=torch.int64), 0
    with kit.frozen(network), torch.no_grad():
        for images, labels in batches:
            wrong = wrong.to(labels.device) + (network(images).argmax(1) != labels).sum()
            count += len(labels)
    return int(wrong) / count


def positive(noise: torch.Tensor) -> torch.Tensor:
    """Return the positive part of a noise in pixel range, truncated to whole steps of 1/255.

    The official code adds the noise so. Its truncation takes a whole step from some values that are whole steps but
    for rounding errors of float32; here they stay.
    """
    return (noise * 255 + SLACK).floor().clamp(min=0) / 255
