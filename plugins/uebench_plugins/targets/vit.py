"""A vision transformer that is trained from scratch on small images."""

from __future__ import annotations

import math

import torch

import uebench
from uebench import Target, UserError, kit, parameter


class ViTSmall(Target):
    """ViT-S of torchvision on patches of four pixels; 21 342 346 parameters at 32x32 and 10 classes.

    Width, depth and heads are those of DeiT-S (Touvron et al., ICML 2021). APBench's `vit_small` is close to
    `width=512,depth=6,heads=8,hidden=512,dropout=0.1`, but also has shifted patches and masked attention. The
    literature trains such networks by AdamW with a warm-up, which is not the recipe of the papers on noises:
    `optimiser=adamw,lr=0.001,weight_decay=0.05,schedule=one-cycle`, whose first fifth is the warm-up.
    """

    name = "vit-small"
    paper = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; size of Touvron et al., ICML 2021, table 1"

    patch: int = parameter(default=4, doc="side of a patch", unit="pixels", low=1)
    width: int = parameter(default=384, doc="features per token", low=1)
    depth: int = parameter(default=12, doc="number of transformer blocks", low=1)
    heads: int = parameter(default=6, doc="attention heads; must divide the width", low=1)
    hidden: int = parameter(default=1536, doc="hidden features of the perceptron in each block", low=1)
    dropout: float = parameter(default=0.0, doc="dropout rate of tokens and perceptrons", low=0, high=1)

    def __post_init__(self) -> None:
        """Raise `UserError` when the width is not a multiple of the number of heads."""
        super().__post_init__()
        if self.width % self.heads:
            raise UserError(f"{self.name}: width must be a multiple of heads, not {self.width} of {self.heads}")

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` unless images are square and their side is a multiple of the patch."""
        from torchvision.models import VisionTransformer

        channels, height, width = shape
        if height != width or height % self.patch:
            allowed = f"squares of a multiple of {self.patch} pixels"
            raise UserError(f"{self.name}: images must be {allowed}, not {height}x{width}")
        network = VisionTransformer(
            image_size=height,
            patch_size=self.patch,
            num_layers=self.depth,
            num_heads=self.heads,
            hidden_dim=self.width,
            mlp_dim=self.hidden,
            dropout=self.dropout,
            num_classes=classes,
        )
        if channels != 3:
            network.conv_proj = torch.nn.Conv2d(channels, self.width, self.patch, self.patch)
            torch.nn.init.trunc_normal_(network.conv_proj.weight, std=math.sqrt(1 / (channels * self.patch**2)))
            torch.nn.init.zeros_(network.conv_proj.bias)
        # DeiT's initialisation; torchvision starts with zeros, and the gradient of the image would be zero
        torch.nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
        return torch.nn.Sequential(kit.centre(), network)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [ViTSmall]
