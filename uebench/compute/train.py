"""The one training loop and the one evaluation; every target is trained here, whatever the breaker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Breaker, Split, Target
from uebench.components.recipe import Recipe
from uebench.compute.attacks import frozen
from uebench.compute.batchnorm_folding import prepare_folding
from uebench.compute.cuda_graphs import allow_recording
from uebench.compute.optimisation import Training
from uebench.compute.pixels import Pixels, crop_and_flip, to_float
from uebench.compute.precision import set_precision
from uebench.compute.seeds import derive_seed, seed_generators

if TYPE_CHECKING:
    from uebench.compute.networks import Classifier

EVALUATION_BATCH = 500


class Progress(Protocol):
    """Counts steps, seeds each, shows progress and keeps half-finished state; the part of `Context` that loops need."""

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps that are left."""

    def tell(self, loss: torch.Tensor) -> None:
        """Note a loss for whoever watches."""

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Offer the state at the end of a step; `more` gather further state, where it is written."""

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state last kept."""


def build_network(
    target: Target, shape: Sequence[int], classes: int, precision: str, device: torch.device, seed: int
) -> Classifier:
    """Return a freshly initialised network; its weights are drawn on the host and so equal on every device.

    From here on this process computes on that device, in that precision.
    """
    from uebench.compute.networks import Classifier

    seed_generators(seed)
    set_precision(precision, device)
    channels, height, width = shape
    built = target.build((channels, height, width), classes)
    rates = target.rates(built)
    if unknown := sorted(rates.keys() - dict(built.named_parameters()).keys()):
        raise ContractError(f"target {target.name}: rates names {unknown[0]!r}, which is no parameter of its network")
    network = Classifier(built, precision, device, rates)
    if prepare_folding(network, torch.bfloat16 if network.autocast else None):
        allow_recording(network)
    return network


def evaluate_network(network: torch.nn.Module, test: Split, classes: int) -> torch.Tensor:
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


class TrainingPoint(NamedTuple):
    """What is measured at one point of training; accuracies are in [0, 1].

    Training accuracy and loss are means over the batches since the point before, as they were trained on; the loss is
    None where it is no number. `attacked_accuracy` is what `Breaker.attacked_accuracy` says of the last batch.
    """

    step: int
    test_accuracy: float
    train_accuracy: float
    loss: float | None
    attacked_accuracy: float | None


@dataclass(frozen=True)
class TrainingOutcome:
    """What training came to: the measured points, the last of them at the last step, and flags."""

    curve: Sequence[TrainingPoint]
    flags: Sequence[str]


OVERFITTING = 0.2
"""How far accuracy under a strong attack may lie below training accuracy: the fall that ends a training of Wong et al.
(Fast is better than free, ICLR 2020, section 5)."""


class Views:
    """The training augmentation of a recipe: the data set's own, or a reflected crop with a flip."""

    def __init__(
        self,
        recipe: Recipe,
        count: int,
        augment: Callable[[torch.Tensor], torch.Tensor],
        mirrors: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        self.recipe, self.augment, self.mirrors = recipe, augment, mirrors
        drawn = torch.Generator().manual_seed(derive_seed(seed, "flip"))
        self.flipped_first = (torch.rand(count, generator=drawn) < 0.5).to(device)

    def __call__(self, images: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return views of the images (b, c, h, w) with these indices (b,)."""
        if self.recipe.crop == "dataset":
            return self.augment(images)
        flip: bool | torch.Tensor = self.mirrors
        if flip and self.recipe.flip == "alternating":
            flip = self.flipped_first[index] ^ bool(epoch % 2)
        return crop_and_flip(images, self.recipe.shift, flip, reflect=True)


def train_network(
    network: torch.nn.Module,
    train: Split,
    test: Callable[[], Split],
    *,
    classes: int,
    recipe: Recipe,
    chain: Sequence[Breaker],
    augment: Callable[[torch.Tensor], torch.Tensor],
    journal: Progress,
    seed: int,
    mirrors: bool = False,
) -> TrainingOutcome:
    """Train a network on 8-bit images under a chain of breakers, and test it on clean images along the way.

    Training labels are on the device, images there or on the host. `test` gives the test split when it is asked for;
    nothing of it is kept, so that no breaker finds it. `augment` is the data set's augmentation, and `mirrors` says
    whether a recipe with one of its own may mirror images.

    Each step: draw a batch, augment, let the chain augment, let it attack, one step of gradient descent. Targets are
    labels unless a member of the chain augments: in one-hot form the loss is the same, its last bits are not. Flags:
    `diverged` (a loss that is no number), `constant-class` (the final network gives one class to every test image),
    `catastrophic-overfitting` (in the end accuracy under a strong attack lies more than 20 points below training
    accuracy). Raises `UserError` where a recipe's shift is not smaller than the images.
    """
    if recipe.crop == "reflect" and recipe.shift >= min(train.images.shape[2:]):
        side = min(train.images.shape[2:])
        raise UserError(f"recipe: shift must be below the {side} pixels of an image's side, not {recipe.shift}")
    training = Training(network, recipe, len(train.labels), seed)
    points = min(recipe.evaluations, recipe.steps)
    marks = [recipe.steps * (number + 1) // points - 1 for number in range(points)]
    curve = torch.zeros(points, 4, dtype=torch.float64)
    tally = torch.zeros(4, dtype=torch.float64, device=train.labels.device)
    right, seen, total_loss, not_finite = tally  # images and losses since the mark, and losses that were no number
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    pixels = Pixels(train.images, train.labels.device)
    views = Views(recipe, len(train.labels), augment, mirrors, seed, train.labels.device)
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
        images = views(pixels[index], index, training.epoch(step))
        for breaker in chain:
            images, targets = breaker.augment(images, targets)
        attacked = images
        for breaker in chain:
            attacked = breaker.attack(network, attacked, targets, step / recipe.steps)
        loss, logits = training.step(step, attacked, targets)
        journal.tell(loss)
        right += (logits.argmax(1) == labels).sum()
        seen += len(labels)
        total_loss += loss * len(labels)
        not_finite += ~loss.isfinite()
        if step in marks:
            confusion = evaluate_network(network, test(), classes).cpu()
            tested = int(confusion.diagonal().sum()) / max(1, int(confusion.sum()))
            attacked_accuracy = math.nan
            for breaker in chain:
                if (share := breaker.attacked_accuracy(network, images, labels)) is not None:
                    attacked_accuracy = float(share)
            row = [tested, float(right / seen), float(total_loss / seen), attacked_accuracy]
            curve[marks.index(step)] = torch.tensor(row, dtype=torch.float64)
            tally[:3] = 0
        journal.keep(training.state, curve=curve, tally=tally, confusion=confusion)
    rows = [
        TrainingPoint(mark + 1, tested, trained, *(value if math.isfinite(value) else None for value in others))
        for mark, (tested, trained, *others) in zip(marks, curve.tolist(), strict=True)
    ]
    flags = ["diverged"] if not_finite else []
    if int((confusion.sum(0) > 0).sum()) == 1:
        flags.append("constant-class")
    last = rows[-1]
    if last.attacked_accuracy is not None and last.train_accuracy - last.attacked_accuracy > OVERFITTING:
        flags.append("catastrophic-overfitting")
    return TrainingOutcome(curve=rows, flags=flags)
