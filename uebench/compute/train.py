"""The training loop and the evaluation that all targets and breakers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
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
    """Count and seed the steps, report progress, and write checkpoints: the part of `Context` that loops need."""

    def steps(self, count: int) -> Iterator[int]:
        """Yield the remaining steps."""

    def tell(self, loss: torch.Tensor) -> None:
        """Report the loss of a step."""

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Offer the state after a step for a checkpoint; `more` are called for further state if one is written."""

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state of the last checkpoint, empty if there is none."""


def build_network(
    target: Target, shape: Sequence[int], classes: int, precision: str, device: torch.device, seed: int
) -> Classifier:
    """Return a newly initialised network on a device, in a precision.

    The weights are drawn on the host, so that they are equal on every device. The call also sets this process to
    compute on that device, in that precision. Raises `ContractError` if `Target.rates` names an unknown parameter.
    """
    from uebench.compute.networks import Classifier

    seed_generators(seed)
    set_precision(precision, device)
    channels, height, width = shape
    module = target.build((channels, height, width), classes)
    rates, parameters = target.rates(module), dict(module.named_parameters())
    if unknown := sorted(rates.keys() - parameters.keys()):
        closest = get_close_matches(unknown[0], parameters, n=1, cutoff=0)
        raise ContractError(
            f"target {target.name}: rates names {unknown[0]!r}, which is not a parameter of its network"
            + "".join(f"; the closest name is {name!r}" for name in closest)
        )
    network = Classifier(module, precision, device, rates)
    if prepare_folding(network, torch.bfloat16 if network.autocast else None):
        allow_recording(network)
    return network


def evaluate_network(network: torch.nn.Module, test: Split, classes: int) -> torch.Tensor:
    """Return the confusion matrix (classes, classes) on uint8 images in eval mode; rows are true, columns predicted."""
    device = next(network.parameters()).device
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    with frozen(network), torch.no_grad():
        for first in range(0, len(test.labels), EVALUATION_BATCH):
            batch = slice(first, first + EVALUATION_BATCH)
            images, labels = to_float(test.images[batch].to(device)), test.labels[batch].to(device)
            predicted = network(images).argmax(1)
            counts += torch.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.view(classes, classes)


class TrainingPoint(NamedTuple):
    """The measurements at one point of training; accuracies are in [0, 1].

    Training accuracy and loss are means over the training batches since the previous point, after augmentation and
    attack. The loss is None if it is not finite. `attacked_accuracy` is the result of `Breaker.attacked_accuracy` on
    the last batch, None if no breaker measures it.
    """

    step: int
    test_accuracy: float
    train_accuracy: float
    loss: float | None
    attacked_accuracy: float | None


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of training: the measured points, the last one at the last step, and the flags."""

    curve: Sequence[TrainingPoint]
    flags: Sequence[str]


OVERFITTING_GAP = 0.2
"""The largest allowed gap between training accuracy and accuracy under a strong attack: the drop at which Wong et al.
stop training (Fast is better than free, ICLR 2020, section 5)."""


class Views:
    """The training augmentation of a recipe: the data set's augmentation, or a crop with reflected border and a flip.

    `mirrors` says whether images may be mirrored. `count` is the number of training images.
    """

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
        generator = torch.Generator().manual_seed(derive_seed(seed, "flip"))
        self.flipped_first = (torch.rand(count, generator=generator) < 0.5).to(device)

    def __call__(self, images: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return augmented images for images (b, c, h, w) and their indices (b,) in the training set."""
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
    progress: Progress,
    seed: int,
    mirrors: bool = False,
) -> TrainingOutcome:
    """Train a network on 8-bit images under a chain of breakers, and test it on clean images during training.

    Training labels are on the device, training images on the device or on the host. `test` loads the test split each
    time it is called; the loop stores no reference to it, so that no breaker can find test data. `augment` is the
    augmentation of the data set. `mirrors` says whether a recipe's augmentation may mirror images.

    Each step draws a batch, augments it, applies the chain's augmentations, then its attack, and takes one step of
    gradient descent. Targets are labels unless a breaker of the chain augments: one-hot targets give the same loss
    except for its last bits. Flags: `diverged` (a loss was not finite), `constant-class` (the final network predicts
    one class for all test images), `catastrophic-overfitting` (at the end, accuracy under a strong attack is more than
    20 points below training accuracy). Raises `UserError` if the recipe's shift is not smaller than the images.
    """
    if recipe.crop == "reflect" and recipe.shift >= min(train.images.shape[2:]):
        side = min(train.images.shape[2:])
        raise UserError(f"recipe: shift must be smaller than the image side of {side} pixels, not {recipe.shift}")
    training = Training(network, recipe, len(train.labels), seed)
    points = min(recipe.evaluations, recipe.steps)
    measured_steps = [recipe.steps * (number + 1) // points - 1 for number in range(points)]
    curve = torch.zeros(points, 4, dtype=torch.float64)
    tally = torch.zeros(4, dtype=torch.float64, device=train.labels.device)
    correct, images_seen, total_loss, not_finite = tally  # the first three are reset at each measured step
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    pixels = Pixels(train.images, train.labels.device)
    views = Views(recipe, len(train.labels), augment, mirrors, seed, train.labels.device)
    soft_targets = any(type(breaker).augment is not Breaker.augment for breaker in chain)
    checkpoint = progress.kept()
    if checkpoint:
        training.resume(checkpoint)
        curve.copy_(checkpoint["curve"])
        tally.copy_(checkpoint["tally"])
        confusion.copy_(checkpoint["confusion"])
    for step in progress.steps(recipe.steps):
        index = training.batch(step)
        labels = targets = train.labels[index]
        if soft_targets:
            targets = torch.nn.functional.one_hot(labels, classes).float()
        images = views(pixels[index], index, training.epoch(step))
        for breaker in chain:
            images, targets = breaker.augment(images, targets)
        attacked = images
        for breaker in chain:
            attacked = breaker.attack(network, attacked, targets, step / recipe.steps)
        loss, logits = training.step(step, attacked, targets)
        progress.tell(loss)
        correct += (logits.argmax(1) == labels).sum()
        images_seen += len(labels)
        total_loss += loss * len(labels)
        not_finite += ~loss.isfinite()
        if step in measured_steps:
            confusion = evaluate_network(network, test(), classes).cpu()
            test_accuracy = int(confusion.diagonal().sum()) / max(1, int(confusion.sum()))
            attacked_accuracy = math.nan
            for breaker in chain:
                if (accuracy := breaker.attacked_accuracy(network, images, labels)) is not None:
                    attacked_accuracy = float(accuracy)
            row = [test_accuracy, float(correct / images_seen), float(total_loss / images_seen), attacked_accuracy]
            curve[measured_steps.index(step)] = torch.tensor(row, dtype=torch.float64)
            tally[:3] = 0
        progress.keep(training.state, curve=curve, tally=tally, confusion=confusion)
    rows = [
        TrainingPoint(
            step + 1, test_accuracy, train_accuracy, *(value if math.isfinite(value) else None for value in optional)
        )
        for step, (test_accuracy, train_accuracy, *optional) in zip(measured_steps, curve.tolist(), strict=True)
    ]
    flags = ["diverged"] if not_finite else []
    if int((confusion.sum(0) > 0).sum()) == 1:
        flags.append("constant-class")
    last = rows[-1]
    if last.attacked_accuracy is not None and last.train_accuracy - last.attacked_accuracy > OVERFITTING_GAP:
        flags.append("catastrophic-overfitting")
    return TrainingOutcome(curve=rows, flags=flags)
