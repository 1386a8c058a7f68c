"""Networks that start from weights on disk: finetuned as a whole, or with a new linear layer on fixed features."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch

import uebench
from uebench import Target, UserError, parameter

CONVERSION = (
    'python -c "import sys, torch, safetensors.torch as s; a, b = sys.argv[1:]; '
    "s.save_file({{k: v.contiguous() for k, v in torch.load(a, 'cpu', weights_only=True).items()}}, b)\" {old} {new}"
)
DIGITS = 16
"""Of the SHA-256 by which weights are known."""


class Pretrained(Target):
    """What both share: a network of torchvision, and a file of its weights, of which the head is dropped.

    The file's names are those of torchvision, as timm's of ResNets are, too. Weights that saw other classes than the
    data set's, such as ImageNet's, are what one who trains on scraped photos starts from. Nothing is unpickled.
    """

    weights: str = parameter(default="", doc="file of the weights, .safetensors; a run needs it", identity=False)
    content: str = parameter(default="", doc="start of the SHA-256 of the weights; filled in")
    arch: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2",
        "mobilenet_v2", "efficientnet_b0",
    ] = parameter(default="resnet18", doc="whose weights they are")  # fmt: skip
    size: int = parameter(default=224, doc="images are resized to this side in the network", unit="pixels", low=32)

    def __post_init__(self) -> None:
        """Take the hash of the weights into the parameters, so that other weights are another target.

        With a hash and no file it is a target on record; `build` then says what it lacks.
        """
        super().__post_init__()
        if not self.weights:
            if not re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", self.content):
                raise UserError(f"target {self.name} needs weights=... (file of the weights, .safetensors)")
            return
        if self.place.suffix != ".safetensors":
            new = self.place.with_suffix(".safetensors")
            line = CONVERSION.format(old=shlex.quote(str(self.place)), new=shlex.quote(str(new)))
            raise UserError(
                f"{self.name}: {self.weights} is no .safetensors file; torch's own are converted by: {line}"
            )
        found = self.digest()
        if not found.startswith(self.content):
            raise UserError(f"{self.name}: {self.weights} has content {found[:DIGITS]}, not {self.content}")
        object.__setattr__(self, "content", found[:DIGITS])

    @property
    def place(self) -> Path:
        """The file."""
        return Path(os.path.expanduser(self.weights))

    def digest(self) -> str:
        """Return the SHA-256 of the file; raises `UserError`."""
        try:
            with open(self.place, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.name}: cannot read {self.weights}: {error.strerror}") from None

    def backbone(self) -> tuple[torch.nn.Module, int]:
        """Return the network with its weights and without its head, and the number of its features."""
        from torchvision import models

        if not self.weights:
            raise UserError(f"target {self.name} needs weights=... (file whose SHA-256 starts with {self.content})")
        network = models.get_model(self.arch, weights=None)
        if not self.digest().startswith(self.content):
            raise UserError(f"{self.name}: {self.weights} has changed since this run began")
        try:
            found = safetensors.torch.load_file(self.place)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{self.name}: cannot read {self.weights}: {' '.join(str(error).split())}") from None
        head, last = list(network.named_children())[-1]
        found = {name: value for name, value in found.items() if not name.startswith(f"{head}.")}
        (features,) = (layer.in_features for layer in last.modules() if isinstance(layer, torch.nn.Linear))
        setattr(network, head, torch.nn.Identity())
        own = network.state_dict()
        for name in sorted({*own, *found}):
            counter = name.endswith("num_batches_tracked")  # not every file has it
            if not counter and (name not in own or name not in found or own[name].shape != found[name].shape):
                here, there = (tuple(weights[name].shape) if name in weights else "none" for weights in (own, found))
                raise UserError(
                    f"{self.name}: {self.weights} has no weights of {self.arch}: {name} is {there} there, {here} here"
                )
        network.load_state_dict({**own, **found})
        return network, features


class Finetune(Pretrained):
    """Train a network from given weights, all of it; wants a low rate, such as `lr=0.01`."""

    name = "finetune"
    paper = "Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network with a new head; raises `UserError` where the weights do not fit."""
        from uebench_plugins.targets.pretrained_layers import View

        network, features = self.backbone()
        return torch.nn.Sequential(View(shape, self.size), network, torch.nn.Linear(features, classes))


class LinearProbe(Pretrained):
    """Train a linear layer on the features of given weights, which stay as they are, batch statistics included."""

    name = "linear-probe"
    paper = "Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network with a new head; raises `UserError` where the weights do not fit."""
        from uebench_plugins.targets.pretrained_layers import Fixed, View

        network, features = self.backbone()
        return torch.nn.Sequential(View(shape, self.size), Fixed(network), torch.nn.Linear(features, classes))


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's targets."""
    return [Finetune, LinearProbe]
