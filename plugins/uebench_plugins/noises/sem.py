"""SEM: stable error-minimising noise, REM with a random perturbation in the noise step."""

from __future__ import annotations

import uebench
from uebench import Noise, parameter
from uebench_plugins.noises.rem import REM, Perturbation


class SEM(REM):
    """Train the surrogate adversarially as REM does, but optimise the noise against random perturbations.

    The random perturbations have the radius of REM's attack. Each draw of the augmentation has a new perturbation. The
    paper's ablation combines `noise_perturbation` none, adversarial (REM) and random (SEM) with
    `surrogate_perturbation` none and adversarial. The first version of the paper described Gaussian perturbations
    (`distribution=gaussian`; its code added a uniform perturbation as well). The released code uses uniform
    perturbations.
    """

    name = "sem"
    paper = (
        "Liu et al., Stable Unlearnable Example: Enhancing the Robustness of Unlearnable Examples, AAAI 2024, "
        "arXiv 2311.13091"
    )

    noise_perturbation: Perturbation = parameter(default="random", doc="perturbation of the noise step")


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [SEM]
