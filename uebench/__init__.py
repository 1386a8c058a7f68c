"""Noises that make images unlearnable, breakers that learn from them all the same, and a board that ranks both."""

from uebench.components.component import Component, parameter
from uebench.components.errors import UserError
from uebench.components.hookspecs import INTERFACE_VERSION, hookimpl
from uebench.components.interfaces import (
    Breaker,
    Budget,
    Choice,
    Context,
    Dataset,
    Images,
    Noise,
    Rate,
    Source,
    Split,
    Target,
)
from uebench.components.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "INTERFACE_VERSION",
    "Breaker",
    "Budget",
    "Choice",
    "Component",
    "Context",
    "Dataset",
    "Images",
    "Noise",
    "Rate",
    "Recipe",
    "Source",
    "Split",
    "Target",
    "UserError",
    "hookimpl",
    "parameter",
]
