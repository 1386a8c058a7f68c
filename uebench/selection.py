"""Turns a suite, or what the user wants of it, into components, and components into the names that it gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from uebench import grammar, spec
from uebench import registry as plugins
from uebench.api import Breaker, Noise, Source, Target
from uebench.errors import UserError
from uebench.recipe import Recipe
from uebench.suite import RECIPES, Suite, name_of
from uebench.suite_file import Kind


@dataclass(frozen=True)
class Selection:
    """What a run is made of: a cross product's lists, or the user's in their place, as components."""

    suite: Suite
    sources: Sequence[Source]
    noises: Sequence[Noise]
    chains: Sequence[tuple[Breaker, ...]]
    targets: Sequence[Target]
    recipe: Recipe
    seeds: Sequence[int]
    protected: Sequence[float] = (1.0,)
    kind: Kind = "mixed"


def recipe_of(suite: Suite, text: str | None = None) -> Recipe:
    """Return a suite's recipe, or in its place that of a text `family:key=value`; raises `UserError`."""
    if text is None:
        where, given = f"suite {suite.name}: recipe", dict(suite.recipe)
        family = given.pop("family", "paper")
    else:
        where = "recipe"
        family, given = grammar.parse(text)
    if family not in RECIPES:
        raise UserError(f"{where}: unknown family {family!r}{grammar.nearest(str(family), RECIPES)}")
    types = spec.kinds(Recipe)
    for key in given:
        if key not in types:
            raise UserError(f"{where} has no parameter {key!r}{grammar.nearest(key, types)}")
    whole = {**RECIPES[family], **given}
    return Recipe(**{key: spec.convert(where, key, types[key], value) for key, value in whole.items()})


def chain(suite: Suite, text: str) -> tuple[Breaker, ...]:
    """Turn `breaker+breaker` into a chain, with the suite's defaults; raises `UserError`."""
    made = [plugins.registry().build("breaker", part, suite.defaults) for part in grammar.split(text, "+")]
    return spec.chain(cast(list[Breaker], made))


def select(
    suite: Suite,
    *,
    datasets: Sequence[str] = (),
    noises: Sequence[str] = (),
    breakers: Sequence[str] = (),
    targets: Sequence[str] = (),
    protected: Sequence[float] = (),
    kind: Kind | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (),
    ranked: bool = False,
) -> list[Selection]:
    """Turn a suite into components, one selection a cross product; raises `UserError`.

    A list that is given replaces the suite's; to be `ranked`, breakers that every rank needs join it where the suite
    says so. Where the suite is several cross products, each takes what it has by name, and, but for data sets, what
    none of them has; those that are left without anything are dropped.
    """
    given = {"datasets": datasets, "noises": noises, "breakers": breakers, "targets": targets}
    found = []
    for part in suite.parts:
        lists = {key: _wanted(suite, part, key, texts) for key, texts in given.items()}
        if suite.grids and not all(lists.values()):
            continue

        if breakers and ranked and part.required_run:
            lists["breakers"] = [*lists["breakers"], *part.required_breakers]

        def build(kind: str, texts: Sequence[str], part: Suite = part) -> list[Any]:
            return list(dict.fromkeys(plugins.registry().build(kind, text, part.defaults) for text in texts))

        found.append(
            Selection(
                suite=part,
                sources=build("dataset", lists["datasets"]),
                noises=build("noise", lists["noises"]),
                chains=list(dict.fromkeys(chain(part, text) for text in lists["breakers"])),
                targets=build("target", lists["targets"]),
                recipe=recipe_of(part, recipe),
                seeds=list(dict.fromkeys(seeds or suite.seeds)),
                protected=list(dict.fromkeys(protected or part.protected)),
                kind=kind or part.kind,
            )
        )
    if not found:
        raise UserError(f"suite {suite.name} has no cell of that kind; see `uebench run {suite.name} --dry-run`")
    return found


def _wanted(suite: Suite, part: Suite, key: str, given: Sequence[str]) -> Sequence[str]:
    """Return what a cross product takes of a list that was given.

    Data sets join none of several: each has settings of its own for those it has.
    """
    own: Sequence[str] = getattr(part, key)
    if not given or not suite.grids:
        return given or own
    mine = {name_of(text) for text in own}
    listed = {name_of(text) for one in suite.parts for text in getattr(one, key)}
    return [one for one in given if name_of(one) in mine or (key != "datasets" and name_of(one) not in listed)]


def describe(suite: Suite, kind: str, component: Any) -> str:
    """Return a component's label: its name and what differs from this suite's defaults."""
    known = suite.labels.get(component)
    if known is None:
        usual = plugins.registry().usual(kind, component.name, suite.defaults)
        known = suite.labels[component] = spec.label(component, usual)
    return known


def describe_chain(suite: Suite, chain: Sequence[Breaker]) -> str:
    """Return a chain's label, its members joined with `+`."""
    return "+".join(describe(suite, "breaker", one) for one in chain)
