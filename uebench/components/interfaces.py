"""The interface of plug-ins: the four kinds of components, data sets, and the context of a noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from uebench.components.component import Component, parameter

if TYPE_CHECKING:  # so that `uebench --help` loads no torch
    import torch


@dataclass(frozen=True)
class Budget:
    """How far a released 8-bit image may be from the clean one, and in which norm of one image.

    `linf` and `l2` are in pixel range [0, 1]; `l0` counts changed pixels; `none` is no bound.
    """

    norm: Literal["linf", "l2", "l0", "none"]
    radius: float = math.inf


class Images(Protocol):
    """Images (n, c, h, w) that come as float32 in [0, 1] on the device, batch by batch; a tensor is one such."""

    @property
    def shape(self) -> torch.Size:
        """The shape (n, c, h, w)."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the images of an index tensor or a slice, float32 (b, c, h, w)."""


class Noise(Component):
    """Makes training images unlearnable by an additive perturbation within a budget."""

    streams: ClassVar[bool] = False
    """Whether `make` takes its images as `Images`, batch by batch, and so works on sets larger than the device."""

    radius: float = parameter(
        default=8 / 255, doc="L-inf budget of the noise", unit="pixel range [0, 1]", above=0, high=1
    )

    def make(self, images: torch.Tensor, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the noise for every image.

        images: float32 (n, c, h, w) in [0, 1], a tensor, or only `Images` where `streams` is set; labels: int64 (n,);
        both on `context.device` and not to be changed. Returns a tensor of the images' shape within the budget: floats
        in pixel range, or int8 or int16 in units of 1/255; the engine adds it, clips to [0, 1] and rounds to 8 bits.
        Random numbers come from torch's default generator, which the engine seeds.
        """
        raise NotImplementedError

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the budget for images of a shape (c, h, w), audited on the released images; L-inf `radius`."""
        return Budget("linf", self.radius)

    def victims(self) -> Sequence[Target]:
        """Return the networks that `make` asks for trained on the clean set; the engine trains and keeps them."""
        return ()

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the passes of one image, forward and backward, through each network, for a noise of `count` images.

        They serve forecasts; return nothing where they are not known.
        """
        return {}


@dataclass(frozen=True)
class Choice:
    """Chains of breakers to choose from, and the share of the training set that the choice is made on, in (0, 1).

    The engine trains a network under each chain on the rest of the released training set and tests it on that share,
    as released. The chain of the highest accuracy, the first of equals, is then used on everything.
    """

    chains: Sequence[tuple[Breaker, ...]]
    held_out: float


Threat = Literal["no extra data", "outside weights", "clean extra data", "leaked pairs", "knows the method"]
"""Threat class of a breaker: what the trainer must have besides the released images and labels.

`outside weights`: a network trained on other data. `clean extra data`: clean images of the same kind. `leaked pairs`:
some images both clean and protected. `knows the method`: the method that made the noise.
"""
THREATS: tuple[Threat, ...] = get_args(Threat)
"""The threat classes, the weakest trainer first. A chain has the strongest class of its members."""


class Breaker(Component):
    """Learns from protected images. Override the methods that you need; all three keep images in [0, 1].

    A breaker is blind: it never receives the noise, its name, clean images or test data.
    """

    threat: ClassVar[Threat] = "no extra data"
    """What the trainer must have besides the released images and labels; boards show it."""
    by_image: ClassVar[bool] = False
    """Whether `filter` treats each image separately, so that the engine may pass parts of the set."""

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Process the training set once, before training; the engine rounds the result to 8 bits.

        images: float32 (n, c, h, w); labels: int64 (n,), on the images' device.
        """
        return images

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch (b, c, h, w) at random, each step, and its soft targets, float32 (b, classes).

        They are one-hot until a member of the chain changes them.
        """
        return images, targets

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Perturb a batch (b, c, h, w) against the model in training, each step, last; at most one in a chain.

        targets: labels (b,), or soft targets (b, classes) where a member of the chain augments; progress: the share of
        the training steps that lie behind, in [0, 1).
        """
        return images

    def attacked_accuracy(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the share of a training batch that the model gets right under a strong attack, as a scalar tensor.

        A breaker that trains under a cheap attack shows with it that its training resists more than that attack. The
        engine asks at every point of the accuracy curve, puts the share on record, and flags
        `catastrophic-overfitting` where it ends far below the training accuracy. None where nothing is attacked.
        images: float32 (b, c, h, w) before the attack; labels: int64 (b,).
        """
        return None

    def choice(self) -> Choice | None:
        """Return the candidates that can replace this breaker; the breaker itself then has no effect."""
        return None

    def passes(self) -> float:
        """Return the passes, forward and backward, of an image that one call of `attack` takes, for forecasts."""
        return 0


@dataclass(frozen=True)
class Rate:
    """What share of a recipe's learning rate and weight decay a parameter of a network takes."""

    lr: float = 1
    weight_decay: float = 1


class Target(Component):
    """A network architecture."""

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return a freshly initialised network that maps images (b, *shape) in [0, 1] to logits (b, classes).

        Normalisation is part of the network. Initial weights come from torch's default generator.
        """
        raise NotImplementedError

    def rates(self, network: torch.nn.Module) -> Mapping[str, Rate]:
        """Return the rates of parameters that do not take a recipe's whole learning rate and weight decay.

        network: what `build` returned. The names are those of `network.named_parameters()`.
        """
        return {}


class Source(Component):
    """Where a data set comes from."""

    def load(self, folder: Path) -> Dataset:
        """Return the data set; `folder` is lent for downloads and large files. Raises `UserError` where it cannot."""
        raise NotImplementedError

    def photo(self, name: str) -> torch.Tensor | None:
        """Return the training image called `name` at its own size, uint8 (3 or 4, h, w), the fourth channel alpha.

        None where images have no size but the data set's. The image resized to that size is the one that `load` gave.
        """
        return None

    def fingerprint(self, folder: Path) -> str:
        """Return a text that changes with the content, for sources whose parameters do not determine it."""
        return ""

    def count(self) -> int | None:
        """Return the number of training images, for forecasts; None where only loading them would tell.

        This and the next two may raise `UserError` where the data set is not here.
        """
        return None

    def shape(self) -> tuple[int, int, int] | None:
        """Return the shape (c, h, w) of the images that a network gets, for measurements without the images.

        None where only loading them would tell.
        """
        return None

    def class_count(self) -> int | None:
        """Return the number of classes, for measurements without the images; None where only loading would tell."""
        return None

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Apply the data set's training augmentation to (b, c, h, w): random per image, differentiable."""
        return images

    def mirrors(self) -> bool:
        """Return whether a mirrored image still shows its class; recipes that crop by themselves mirror only then."""
        return False


@dataclass(frozen=True)
class Split:
    """Images uint8 (n, c, h, w) and labels int64 (n,)."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and the names of the classes in label order.

    Test images have the shape that `Source.augment` gives training images. The test split may be empty where images
    are only to be protected. `names` calls each training image `class/name`, without suffix; left empty, images go
    by number. `skipped` has a line about everything that could not be read: nothing is trained on such a set.
    """

    train: Split
    test: Split
    classes: Sequence[str]
    names: Sequence[str] = ()
    skipped: Sequence[str] = ()


class Context(Protocol):
    """What the engine lends a noise while it is made."""

    @property
    def device(self) -> torch.device:
        """The device that images, labels and networks are on."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    @property
    def names(self) -> Sequence[str]:
        """What the data set calls each training image, `class/name`; by number where it has no names."""

    @property
    def seed(self) -> int:
        """The seed of this noise, for orders drawn once; random numbers within a step need no seed."""

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Apply the data set's training augmentation to float images (b, c, h, w): random per image, differentiable."""

    def network(self, target: Target | str, trained: bool = False) -> torch.nn.Module:
        """Return a freshly initialised surrogate, of a component or its name; no trained target starts as it does.

        With `trained`, one of `Noise.victims` as the recipe of the run trains it, plainly, on the clean training set.
        """

    def steps(self, count: int) -> Iterator[int]:
        """Yield 0 .. count-1, after an interruption only those behind the last kept step; shows progress.

        Before each step the random generators are seeded from the seed and the step alone. Call once per `make`.
        """

    def tell(self, loss: torch.Tensor) -> None:
        """Show a loss, a tensor of one value, beside the progress; read only when something is shown."""

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Offer the state at the end of a step; the engine writes it every few minutes.

        What takes time to gather may be given as functions, `Training.state` for one: called only for what is written.
        """

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state last kept by an interrupted run, or an empty mapping."""
