"""Noises that make images unlearnable, breakers that learn from them all the same, and a board that ranks both."""

from uebench.api import Breaker, Budget, Choice, Context, Dataset, Images, Noise, Rate, Source, Split, Target
from uebench.component import Component, parameter
from uebench.errors import UserError
from uebench.hookspecs import hookimpl
from uebench.recipe import Recipe

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
    "Rate",
    "Recipe",
    "Source",
    "Split",
    "Target",
    "UserError",
    "hookimpl",
    "parameter",
]
