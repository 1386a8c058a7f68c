"""SEM: stable error-minimising noise, REM with a random perturbation in the noise step."""

from __future__ import annotations

import uebench
from uebench import Noise, parameter
from uebench_plugins.noises.rem import REM, Perturbation


class SEM(REM):
    """Train the surrogate adversarially as REM does, but make the noise against random perturbations of that radius.

    Each draw of the augmentation has a fresh perturbation. The paper's ablation is `noise_perturbation` in none,
    adversarial (REM) and random (SEM), times `surrogate_perturbation` in none and adversarial. Its first description
    had Gaussian perturbations (`distribution=gaussian`, without the uniform one that its code then added as well), the
    released code has uniform ones.
    """

    name = "sem"
    paper = "Liu et al., Stable Unlearnable Example: Enhancing the Robustness of Unlearnable Examples, AAAI 2024"

    noise_perturbation: Perturbation = parameter(default="random", doc="what the noise is made against")


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [SEM]
