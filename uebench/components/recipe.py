"""How a network is trained, as parameters."""

from __future__ import annotations

from typing import Literal

from uebench.components.component import Component, parameter
from uebench.components.errors import UserError


class Recipe(Component):
    """How a network is trained: gradient descent counted in steps (batches), as the papers count.

    The defaults are the protocol of REM (Fu et al., ICLR 2022, section 5.1): 40 000 steps, learning rate divided by
    ten after 40 % and 80 % of them. Transformers are usually trained by `adamw` (Loshchilov and Hutter, ICLR 2019), at
    a lower rate.

    `nesterov`, `label_smoothing`, `lookahead`, `schedule=triangle`, `crop=reflect` and `flip=alternating` are what
    short trainings use (Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024). Look-ahead keeps a moving
    average of the weights and buffers; every `lookahead` steps both become
    `share * average + (1 - share) * weights`, with share 0.95^5 (steps so far / all steps)^3, and the average is the
    result (Zhang et al., Lookahead Optimizer, NeurIPS 2019).
    """

    name = "sgd"

    steps: int = parameter(default=40_000, doc="training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="highest learning rate", above=0)
    momentum: float = parameter(default=0.9, doc="momentum", low=0, high=1)
    weight_decay: float = parameter(default=5e-4, doc="weight decay on all parameters", low=0)
    schedule: Literal["step", "one-cycle", "constant", "triangle"] = parameter(
        default="step", doc="learning-rate schedule"
    )
    precision: Literal["fp32", "tf32", "bf16"] = parameter(
        default="fp32", doc="tf32 for products on a GPU, bf16 by autocast, each where the device has it"
    )
    evaluations: int = parameter(default=10, doc="points of the accuracy curve", low=1)
    optimiser: Literal["sgd", "adamw"] = parameter(
        default="sgd", doc="adamw has the momentum for its first beta, and 0.999 for its second", later=True
    )
    clip: float = parameter(
        default=0, doc="most that the gradient of all weights may measure, in L2; 0 for no bound", low=0, later=True
    )
    hidden_lr: float = parameter(
        default=1, doc="rate of linear layers but the last, as a share of all others'", above=0, later=True
    )
    nesterov: bool = parameter(default=False, doc="Nesterov's momentum, for sgd", later=True)
    label_smoothing: float = parameter(
        default=0, doc="share of each target spread evenly over all classes", low=0, high=1, later=True
    )
    lookahead: int = parameter(
        default=0, doc="steps between two updates of the moving average; 0 for none", unit="batches", low=0, later=True
    )
    crop: Literal["dataset", "reflect"] = parameter(
        default="dataset",
        doc="training augmentation: the data set's own, or a shift in which the border is reflected",
        later=True,
    )
    shift: int = parameter(default=2, doc="most that `crop=reflect` shifts by", unit="pixels", low=0, later=True)
    flip: Literal["random", "alternating"] = parameter(
        default="random", doc="how `crop=reflect` mirrors images: by chance, or every other epoch", later=True
    )

    def __post_init__(self) -> None:
        """Refuse values that do not go together; raises `UserError`."""
        super().__post_init__()
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise UserError(f"{self.name}: nesterov needs optimiser=sgd and a momentum above 0")
        if self.optimiser == "adamw" and self.momentum == 1:
            raise UserError(f"{self.name}: momentum must be below 1 with adamw, not 1")
