"""A plug-in that implements a hook that does not exist."""

import uebench


@uebench.hookimpl
def register_noise() -> list[type[uebench.Noise]]:
    """Register nothing, since the hook is called register_noises."""
    return []
