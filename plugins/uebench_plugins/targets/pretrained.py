"""Networks that start from a file of weights: trained completely, or with a new linear layer on fixed features."""

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
"""Number of hexadecimal digits of the SHA-256 that identify weights."""


class Pretrained(Target):
    """Base class of both targets: a torchvision network without its head, and a file of its weights.

    The file uses torchvision's names for the weights; timm's ResNets have the same names. Someone who trains on scraped
    photos usually starts from weights of another data set, such as ImageNet. No file is unpickled.
    """

    weights: str = parameter(default="", doc="file of the weights, .safetensors; required for a run", identity=False)
    content: str = parameter(default="", doc="start of the SHA-256 of the weights; computed from the file")
    arch: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2",
        "mobilenet_v2", "efficientnet_b0",
    ] = parameter(default="resnet18", doc="architecture that the weights belong to")  # fmt: skip
    size: int = parameter(default=224, doc="side to which the network resizes images", unit="pixels", low=32)

    def __post_init__(self) -> None:
        """Add the hash of the weights to the parameters, so that different weights are a different target.

        With a hash and no file, the target describes a stored result only; `build` then raises `UserError`.
        """
        super().__post_init__()
        if not self.weights:
            if not re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", self.content):
                raise UserError(f"target {self.name} needs weights=... (file of the weights, .safetensors)")
            return
        if self._path.suffix != ".safetensors":
            converted = self._path.with_suffix(".safetensors")
            command = CONVERSION.format(old=shlex.quote(str(self._path)), new=shlex.quote(str(converted)))
            raise UserError(
                f"{self.name}: {self.weights} is not a .safetensors file; convert a file of torch by: {command}"
            )
        digest = self._hash_file()
        if not digest.startswith(self.content):
            raise UserError(f"{self.name}: {self.weights} has content {digest[:DIGITS]}, not {self.content}")
        object.__setattr__(self, "content", digest[:DIGITS])

    @property
    def _path(self) -> Path:
        """The path of the file of weights."""
        return Path(os.path.expanduser(self.weights))

    def _hash_file(self) -> str:
        """Return the SHA-256 of the file; raises `UserError` when the file cannot be read."""
        try:
            with open(self._path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.name}: cannot read {self.weights}: {error.strerror}") from None

    def load_backbone(self) -> tuple[torch.nn.Module, int]:
        """Return the network with its weights but without its head, and the number of features that it returns."""
        from torchvision import models

        if not self.weights:
            raise UserError(f"target {self.name} needs weights=... (file whose SHA-256 starts with {self.content})")
        network = models.get_model(self.arch, weights=None)
        if not self._hash_file().startswith(self.content):
            raise UserError(f"{self.name}: {self.weights} has changed since this run began")
        try:
            loaded = safetensors.torch.load_file(self._path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{self.name}: cannot read {self.weights}: {' '.join(str(error).split())}") from None
        head_name, head = list(network.named_children())[-1]
        loaded = {name: value for name, value in loaded.items() if not name.startswith(f"{head_name}.")}
        (features,) = (layer.in_features for layer in head.modules() if isinstance(layer, torch.nn.Linear))
        setattr(network, head_name, torch.nn.Identity())
        initial = network.state_dict()
        for name in sorted({*initial, *loaded}):
            is_counter = name.endswith("num_batches_tracked")  # some files lack these counters
            if not is_counter and (
                name not in initial or name not in loaded or initial[name].shape != loaded[name].shape
            ):
                expected, actual = (
                    tuple(weights[name].shape) if name in weights else "none" for weights in (initial, loaded)
                )
                raise UserError(
                    f"{self.name}: {self.weights} does not fit {self.arch}: "
                    f"{name} is {actual} in the file, {expected} in the network"
                )
        network.load_state_dict({**initial, **loaded})
        return network, features


class Finetune(Pretrained):
    """Train all layers of a network from given weights; use a low learning rate, such as `lr=0.01`."""

    name = "finetune"
    paper = "Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network with a new head; raises `UserError` where the weights do not fit."""
        from uebench_plugins.targets.pretrained_layers import Preprocessing

        network, features = self.load_backbone()
        return torch.nn.Sequential(Preprocessing(shape, self.size), network, torch.nn.Linear(features, classes))


class LinearProbe(Pretrained):
    """Train a linear layer on the features of given weights; weights and batch-norm statistics stay fixed."""

    name = "linear-probe"
    paper = "Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network with a new head; raises `UserError` where the weights do not fit."""
        from uebench_plugins.targets.pretrained_layers import Frozen, Preprocessing

        network, features = self.load_backbone()
        return torch.nn.Sequential(Preprocessing(shape, self.size), Frozen(network), torch.nn.Linear(features, classes))


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's targets."""
    return [Finetune, LinearProbe]
