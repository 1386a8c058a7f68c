"""A suite: the lists that make a cross product, a recipe, and the defaults of components in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from uebench.components.grammar import parse_component, split_outside_parentheses

ShareKind = Literal["mixed", "clean-only"]
"""What happens to unprotected images: they are trained on too, or they alone are."""
DEFAULT_SUITE = "demo"
RECIPE_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},  # the defaults of `Recipe`
    "fast": {"steps": 4000, "lr": 0.6, "schedule": "one-cycle", "precision": "bf16", "clip": 5, "hidden_lr": 0.1},
    "quick": {
        "steps": 388,  # four epochs of 50 000 images
        "batch": 512,
        "lr": 0.75,
        "momentum": 0.85,
        "nesterov": True,
        "weight_decay": 0.00133,
        "schedule": "triangle",
        "precision": "bf16",
        "evaluations": 4,
        "label_smoothing": 0.2,
        "lookahead": 10,
        "crop": "reflect",
        "shift": 2,
        "flip": "alternating",
    },
}
"""Families of recipes. Other settings of a suite or a user override those of the family. A grid that names a family,
or a suite that is like another and names one, takes nothing from the other's recipe."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: test accuracy on each of the `lower` noises is below that on each of the `higher` ones.

    It holds under each of `breakers`, without them under every breaker of the suite; on every data set and target.
    """

    says: str
    lower: Sequence[str]
    higher: Sequence[str]
    breakers: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """Names and parameters; nothing in it is a component yet.

    `recipe` has the settings that differ from its `family` in `RECIPE_FAMILIES`. `protected` are shares of protected
    images. `references` adds the clean set under every breaker, and every noise under no breaker. `defaults` is
    `{kind: {name or "*": {parameter: value}}}`. An entry of the board needs every required breaker on every required
    target; with `required_run` every run includes those breakers. `floor` is the share of the plain clean accuracy
    that a breaker must keep on clean images to count for the same-breaker gap. The site shows `featured` suites first.
    A suite of several cross products has them in `grids`, each a suite itself.
    """

    name: str
    title: str
    datasets: Sequence[str] = ()
    noises: Sequence[str] = ()
    breakers: Sequence[str] = ()
    targets: Sequence[str] = ()
    protected: Sequence[float] = (1.0,)
    kind: ShareKind = "mixed"
    references: bool = True
    seeds: Sequence[int] = (0,)
    required_breakers: Sequence[str] = ()
    required_targets: Sequence[str] = ()
    required_run: bool = False
    floor: float = 0.5
    featured: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    grids: Sequence[Suite] = ()
    claims: Sequence[Claim] = ()
    labels: dict[Any, str] = field(init=False, default_factory=dict, compare=False, repr=False)
    """The labels of components, filled in when they are first needed."""

    @property
    def parts(self) -> Sequence[Suite]:
        """The cross products of the suite."""
        return self.grids or (self,)

    def part(self, dataset: str, noise: str = "") -> Suite:
        """Return the first cross product with a data set of this name, or the suite.

        Ranks and entries go by the first one. With the name of a noise, return the first one that has both, if any: its
        labels name the results.
        """
        matching = [part for part in self.parts if dataset in map(component_names, part.datasets)]
        with_noise = [part for part in matching if noise in map(component_names, part.noises)]
        return next(iter([*with_noise, *matching]), self)


def component_names(text: str) -> str:
    """Return the names in a specification or a chain, without parameters."""
    return "+".join(parse_component(part)[0] for part in split_outside_parentheses(text, "+"))
