"""How a network is trained, as parameters."""

from __future__ import annotations

from typing import Literal

from uebench.component import Component, UserError, parameter


class Recipe(Component):
    """How a network is trained: gradient descent counted in steps (batches), as the papers count.

    The defaults are the protocol of REM (Fu et al., ICLR 2022, section 5.1): 40 000 steps, learning rate divided by
    ten after 40 % and 80 % of them. Transformers are usually trained by `adamw` (Loshchilov and Hutter, ICLR 2019), at
    a lower rate.
    """

    name = "sgd"

    steps: int = parameter(default=40_000, doc="training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="highest learning rate", above=0)
    momentum: float = parameter(default=0.9, doc="momentum", low=0, high=1)
    weight_decay: float = parameter(default=5e-4, doc="weight decay on all parameters", low=0)
    schedule: Literal["step", "one-cycle", "constant"] = parameter(default="step", doc="learning-rate schedule")
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

    def __post_init__(self) -> None:
        """Refuse a momentum that AdamW cannot divide by; raises `UserError`."""
        super().__post_init__()
        if self.optimiser == "adamw" and self.momentum == 1:
            raise UserError(f"{self.name}: momentum must be below 1 with adamw, not 1")
