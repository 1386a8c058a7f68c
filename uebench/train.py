"""The one training loop and the one evaluation; every target is trained here, whatever the breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from uebench import folding, replay
from uebench.api import Breaker, Split, Target
from uebench.attacks import frozen
from uebench.pixels import Pixels, to_float
from uebench.precision import settle
from uebench.recipe import Recipe
from uebench.seeds import sow
from uebench.sgd import Training

if TYPE_CHECKING:
    from uebench.networks import Classifier

EVALUATION_BATCH = 500


class Journal(Protocol):
    """Counts steps, seeds each, shows progress and keeps half-finished state; the part of `Context` that loops need."""

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps that are left."""

    def tell(self, loss: torch.Tensor) -> None:
        """Note a loss for whoever watches."""

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Offer the state at the end of a step; `more` gather further state, where it is written."""

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state last kept."""


def build(
    target: Target, shape: Sequence[int], classes: int, precision: str, device: torch.device, seed: int
) -> Classifier:
    """Return a freshly initialised network; its weights are drawn on the host and so equal on every device.

    From here on this process computes on that device, in that precision.
    """
    from uebench.networks import Classifier

    sow(seed)
    settle(precision, device)
    channels, height, width = shape
    network = Classifier(target.build((channels, height, width), classes), precision, device)
    if folding.prepare(network, torch.bfloat16 if network.autocast else None):
        replay.admit(network)
    return network


def evaluate(network: torch.nn.Module, test: Split, classes: int) -> torch.Tensor:
    """Return the confusion matrix (classes, classes), rows true and columns predicted, of uint8 images in eval mode."""
    device = next(network.parameters()).device
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    with frozen(network), torch.no_grad():
        for first in range(0, len(test.labels), EVALUATION_BATCH):
            batch = slice(first, first + EVALUATION_BATCH)
            x, y = to_float(test.images[batch].to(device)), test.labels[batch].to(device)
            found = network(x).argmax(1)
            counts += torch.bincount(y * classes + found, minlength=classes * classes)
    return counts.view(classes, classes)


@dataclass(frozen=True)
class Outcome:
    """Accuracy over training, in [0, 1]: rows (step, test, train) of `curve`; train is on the batches as trained."""

    curve: Sequence[tuple[int, float, float]]
    flags: Sequence[str]


def train(
    network: torch.nn.Module,
    train: Split,
    test: Callable[[], Split],
    *,
    classes: int,
    recipe: Recipe,
    chain: Sequence[Breaker],
    augment: Callable[[torch.Tensor], torch.Tensor],
    journal: Journal,
    seed: int,
) -> Outcome:
    """Train a network on 8-bit images under a chain of breakers, and test it on clean images along the way.

    Training labels are on the device, images there or on the host. `test` gives the test split when it is asked for;
    nothing of it is kept, so that no breaker finds it.

    Each step: draw a batch, augment, let the chain augment, let it attack, one step of gradient descent. Targets are
    labels unless a member of the chain augments: in one-hot form the loss is the same, its last bits are not. Flags:
    `diverged` (a loss that is no number), `constant-class` (the final network gives one class to every test image).
    """
    training = Training(network, recipe, len(train.labels), seed)
    points = min(recipe.evaluations, recipe.steps)
    marks = [recipe.steps * (place + 1) // points - 1 for place in range(points)]
    curve = torch.zeros(points, 2, dtype=torch.float64)
    tally = torch.zeros(3, dtype=torch.float64, device=train.labels.device)
    right, seen, lost = tally  # images since the mark, and losses that were no number
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    pixels = Pixels(train.images, train.labels.device)
    softens = any(type(breaker).augment is not Breaker.augment for breaker in chain)
    kept = journal.kept()
    if kept:
        training.resume(kept)
        curve.copy_(kept["curve"])
        tally.copy_(kept["tally"])
        confusion.copy_(kept["confusion"])
    for step in journal.steps(recipe.steps):
        index = training.batch(step)
        labels = targets = train.labels[index]
        if softens:
            targets = torch.nn.functional.one_hot(labels, classes).float()
        images = augment(pixels[index])
        for breaker in chain:
            images, targets = breaker.augment(images, targets)
        for breaker in chain:
            images = breaker.attack(network, images, targets, step / recipe.steps)
        loss, logits = training.step(step, images, targets)
        journal.tell(loss)
        right += (logits.argmax(1) == labels).sum()
        seen += len(labels)
        lost += ~loss.isfinite()
        if step in marks:
            confusion = evaluate(network, test(), classes).cpu()
            tested = int(confusion.diagonal().sum()) / max(1, int(confusion.sum()))
            curve[marks.index(step)] = torch.tensor([tested, float(right / seen)], dtype=torch.float64)
            tally[:2] = 0
        journal.keep(training.state, curve=curve, tally=tally, confusion=confusion)
    flags = ["diverged"] if lost else []
    if int((confusion.sum(0) > 0).sum()) == 1:
        flags.append("constant-class")
    rows = [(mark + 1, float(row[0]), float(row[1])) for mark, row in zip(marks, curve, strict=True)]
    return Outcome(curve=rows, flags=flags)
