"""NTGA: noise that misleads an infinitely wide network trained on the protected block."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

import uebench
from uebench import Context, Images, Noise, UserError, kit, parameter
from uebench_plugins.noises.gradient_flow import Flow


class NTGA(Noise):
    """Increase the validation loss of a wide network with a single step of the whole radius, as the released code does.

    The paper describes several iterations (`ntga-pgd`). In its code, however, each iteration starts again from the
    clean block and takes a step of the whole radius. That code does not add noise to the 10 000 validation images or
    to an incomplete block; REM protects all images and does not say which validation images it uses. Here the training
    set is split into folds, the next fold is the validation set, and no test image is used.

    The default of `block` is REM's value. The other defaults are those of the released code, whose block is 512. Its
    readme reports the strongest noise (CIFAR-10) for a `time` of 4096 with the FNN and a `time` of 8 with the CNN. The
    cost of the CNN grows with the number of positions; use a block of 512 for it.

    A fold is split into equal blocks of at most `block` images: for CIFAR-10, three blocks for 10 000 images. The loss
    of the flow is a mean over the block, so the same `time` has more effect on a smaller block: for CIFAR-10, a fifth
    more.
    """

    name = "ntga"
    paper = "Yuan and Wu, Neural Tangent Generalization Attacks, ICML 2021; block of REM, section 5.1"
    streams: ClassVar[bool] = True

    kernel: Literal["fnn", "cnn"] = parameter(default="fnn", doc="architecture of the wide network")
    stride: int = parameter(
        default=2, doc="stride of the CNN's convolutions; the released code uses 3 for ImageNet", low=1
    )
    block: int = parameter(
        default=4000, doc="largest number of images that the network is trained on at once", unit="images", low=1
    )
    time: float = parameter(default=64.0, doc="training time of the wide network", unit="steps of rate 1", above=0)
    folds: int = parameter(default=5, doc="parts of the training set; the next fold is the validation set", low=2)
    validation: int = parameter(default=10_000, doc="largest number of validation images", unit="images", low=1)
    regulariser: float = parameter(
        default=1e-4, doc="value added to the diagonal of the tangent matrix", unit="its mean", low=0
    )

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Increase, block after block, the loss of the block's validation images."""
        blocks, (steps, step_size) = self.split_into_blocks(labels, context.seed), self.step_schedule()
        kept = context.kept()
        delta, protected = kit.blank(images, self.radius), kept.get("moved")
        if kept:
            delta.copy_(kept["delta"])
        for step in context.steps(len(blocks) * steps):
            index, validation = blocks[step // steps]
            clean = images[index].double()
            if protected is None or step % steps == 0:
                protected = clean
            gradient, loss = self.validation_gradient(
                protected.to(clean), index, validation, images, labels, context.classes
            )
            protected = protected.to(clean) + step_size * self.radius * gradient.sign()
            protected = (clean + (protected - clean).clamp(-self.radius, self.radius)).clamp(0, 1)
            delta[index.to(delta.device)] = kit.to_steps(protected - clean, self.radius).to(delta.device)
            context.tell(loss)
            context.keep(delta=delta, moved=protected)
        return delta

    def step_schedule(self) -> tuple[int, float]:
        """Return the number of steps on a block, and the size of a step in units of the radius."""
        return 1, 1.0

    def split_into_blocks(self, labels: torch.Tensor, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the indices of each block, and of its validation images from the next fold."""
        if len(labels) < self.folds:
            raise UserError(f"noise {self.name}: {len(labels)} training images cannot be split into {self.folds} folds")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
        folds = order.tensor_split(self.folds)
        return [
            (block, folds[(number + 1) % self.folds][: self.validation])
            for number, fold in enumerate(folds)
            for block in fold.tensor_split(-(-len(fold) // self.block))
        ]

    def validation_gradient(
        self,
        block: torch.Tensor,
        index: torch.Tensor,
        validation: torch.Tensor,
        images: Images,
        labels: torch.Tensor,
        classes: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient (m, c, h, w) of the summed validation loss for a block's images, and the mean loss."""
        from uebench_plugins.noises.neural_tangent import CNN, FNN

        targets = torch.nn.functional.one_hot(labels[index], classes).to(block)
        kernel = FNN() if self.kernel == "fnn" else CNN(self.stride)
        flow = Flow(kernel, block, targets, self.time, self.regulariser)
        gradient, loss = flow.image_gradient(
            (images[part].double(), labels[part]) for part in torch.split(validation, flow.rows)
        )
        return gradient, loss / len(validation)


class NTGAPGD(NTGA):
    """NTGA as in its paper: gradient ascent from the clean block, with a projection after each step.

    The step size and the number of steps are REM's (table 5) for CIFAR; the released code intends the same values.
    """

    name = "ntga-pgd"

    noise_steps: int = parameter(default=10, doc="number of steps on a block", low=1)
    noise_step: float = parameter(default=0.11, doc="size of a step", unit="radius", above=0)

    def step_schedule(self) -> tuple[int, float]:
        """Return the number of steps on a block, and the size of a step in units of the radius."""
        return self.noise_steps, self.noise_step


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noises."""
    return [NTGA, NTGAPGD]
