"""Turns a suite, or what the user wants of it, into components, and components into the names that it gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match, parse_component, split_outside_parentheses
from uebench.components.interfaces import Breaker, Noise, Source, Target
from uebench.components.recipe import Recipe
from uebench.components.registry import registry
from uebench.components.spec import component_label, convert_value, make_chain, parameter_types
from uebench.planning.suite import RECIPE_FAMILIES, ShareKind, Suite, component_names


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
    kind: ShareKind = "mixed"


def resolve_recipe(suite: Suite, text: str | None = None) -> Recipe:
    """Return a suite's recipe, or in its place that of a text `family:key=value`; raises `UserError`."""
    if text is None:
        where, settings = f"suite {suite.name}: recipe", dict(suite.recipe)
        family = settings.pop("family", "paper")
    else:
        where = "recipe"
        family, settings = parse_component(text)
    if family not in RECIPE_FAMILIES:
        raise UserError(f"{where}: unknown family {family!r}{nearest_match(str(family), RECIPE_FAMILIES)}")
    types = parameter_types(Recipe)
    for key in settings:
        if key not in types:
            raise UserError(f"{where} has no parameter {key!r}{nearest_match(key, types)}")
    values = {**RECIPE_FAMILIES[family], **settings}
    return Recipe(**{key: convert_value(where, key, types[key], value) for key, value in values.items()})


def build_chain(suite: Suite, text: str) -> tuple[Breaker, ...]:
    """Turn `breaker+breaker` into a chain, with the suite's defaults; raises `UserError`."""
    breakers = [registry().build("breaker", part, suite.defaults) for part in split_outside_parentheses(text, "+")]
    return make_chain(cast(list[Breaker], breakers))


def select_components(
    suite: Suite,
    *,
    datasets: Sequence[str] = (),
    noises: Sequence[str] = (),
    breakers: Sequence[str] = (),
    targets: Sequence[str] = (),
    protected: Sequence[float] = (),
    kind: ShareKind | None = None,
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
        lists = {key: _choose_texts(suite, part, key, texts) for key, texts in given.items()}
        if suite.grids and not all(lists.values()):
            continue

        if breakers and ranked and part.required_run:
            lists["breakers"] = [*lists["breakers"], *part.required_breakers]

        def build(kind: str, texts: Sequence[str], part: Suite = part) -> list[Any]:
            return list(dict.fromkeys(registry().build(kind, text, part.defaults) for text in texts))

        found.append(
            Selection(
                suite=part,
                sources=build("dataset", lists["datasets"]),
                noises=build("noise", lists["noises"]),
                chains=list(dict.fromkeys(build_chain(part, text) for text in lists["breakers"])),
                targets=build("target", lists["targets"]),
                recipe=resolve_recipe(part, recipe),
                seeds=list(dict.fromkeys(seeds or suite.seeds)),
                protected=list(dict.fromkeys(protected or part.protected)),
                kind=kind or part.kind,
            )
        )
    if not found:
        raise UserError(f"suite {suite.name} has no cell of that kind; see `uebench run {suite.name} --dry-run`")
    return found


def _choose_texts(suite: Suite, part: Suite, key: str, given: Sequence[str]) -> Sequence[str]:
    """Return those of the given components that a cross product takes.

    It takes a data set only if it lists it: its settings are for those that it lists.
    """
    own: Sequence[str] = getattr(part, key)
    if not given or not suite.grids:
        return given or own
    own_names = {component_names(text) for text in own}
    suite_names = {component_names(text) for part in suite.parts for text in getattr(part, key)}
    return [
        text
        for text in given
        if component_names(text) in own_names or (key != "datasets" and component_names(text) not in suite_names)
    ]


def label_in_suite(suite: Suite, kind: str, component: Any) -> str:
    """Return a component's label: its name and what differs from this suite's defaults."""
    label = suite.labels.get(component)
    if label is None:
        defaults = registry().usual(kind, component.name, suite.defaults)
        label = suite.labels[component] = component_label(component, defaults)
    return label


def chain_label_in_suite(suite: Suite, chain: Sequence[Breaker]) -> str:
    """Return a chain's label, its members joined with `+`."""
    return "+".join(label_in_suite(suite, "breaker", breaker) for breaker in chain)
