"""Noises that make images unlearnable, breakers that learn from them all the same, and a board that ranks both."""

from uebench.api import (
    Breaker,
    Budget,
    Choice,
    Component,
    Context,
    Dataset,
    Images,
    Noise,
    Recipe,
    Source,
    Split,
    Target,
    UserError,
    parameter,
)
from uebench.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "Breaker",
    "Budget",
    "Choice",
    "Component",
    "Context",
    "Dataset",
    "Images",
    "Noise",
    "Recipe",
    "Source",
    "Split",
    "Target",
    "UserError",
    "hookimpl",
    "parameter",
]
