"""Training rounds and noise steps that sample-wise and class-wise EM noise share, as in the official code of EM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from uebench import Context, kit

ROUNDING_ERROR = 1e-3
"""The largest rounding error of float32 in a value that is a whole number of steps of 1/255, in steps."""


def take_rounds(
    context: Context,
    *,
    rounds: int,
    learn: int,
    batches: Sequence[torch.Tensor],
    train: Callable[[int], None],
    descend: Callable[[torch.Tensor], None],
    error: Callable[[], float],
    stop_error: float,
    keep: Callable[[], None],
) -> None:
    """Run rounds of `learn` training steps and one noise step per batch, until the surrogate's error rate is low.

    `train(step)` runs one training step; steps are numbered over all rounds. `descend(index)` updates the noise of a
    batch. `error()` returns the error rate of the surrogate; it is called at the end of each round, and the rounds end
    when the rate is at most `stop_error`. `keep()` offers the state for a checkpoint after every
    other step.
    """
    length = learn + len(batches)
    for step in context.steps(rounds * length):
        round_index, position = divmod(step, length)
        if position < learn:
            train(round_index * learn + position)
        else:
            descend(batches[position - learn])
        if position == length - 1 and error() <= stop_error:
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
    """Return the noise (b, c, h, w) of a batch after descent steps from `noise`, all in pixel range [0, 1].

    Each step starts from the protected image, clipped to [0, 1], and the new noise is clipped to the radius. The
    result of the last step is not clipped to [0, 1], so x + noise may leave [0, 1] by one step.
    """
    with kit.frozen(network):
        for _ in range(steps):
            point = (images + noise).clamp(0, 1)
            _, gradient = kit.image_gradient(network, point, labels)
            noise = (point - step * gradient.sign() - images).clamp(-radius, radius)
    return noise


def measure_error_rate(network: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the fraction of images that a network in eval mode classifies wrongly."""
    wrong, count = torch.zeros((), dtype=torch.int64), 0
    with kit.frozen(network), torch.no_grad():
        for images, labels in batches:
            wrong = wrong.to(labels.device) + (network(images).argmax(1) != labels).sum()
            count += len(labels)
    return int(wrong) / count


def take_positive_part(noise: torch.Tensor) -> torch.Tensor:
    """Return the positive part of a noise in pixel range, truncated to whole steps of 1/255.

    The official code adds the noise in this form. Some values differ from a whole number of steps only by a rounding
    error of float32; the official truncation lowers these by a whole step, and this function keeps them.
    """
    return (noise * 255 + ROUNDING_ERROR).floor().clamp(min=0) / 255
