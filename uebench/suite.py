"""A suite: the lists that make a cross product, a recipe, and what a bare name means in it; read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from uebench import registry as plugins
from uebench import spec
from uebench.api import Breaker, Noise, Recipe, Source, Target, UserError

DEFAULT = "demo"
LISTS = ("datasets", "noises", "breakers", "targets")


@dataclass(frozen=True)
class Suite:
    """Names and parameters only; nothing in it is a component yet.

    `defaults` is `{kind: {name or "*": {parameter: value}}}`. An entry of the board needs every required breaker on
    every required target. `floor` is the share of the plain clean accuracy that a breaker must keep on clean images
    to count for the same-breaker gap.
    """

    name: str
    title: str
    datasets: Sequence[str]
    noises: Sequence[str]
    breakers: Sequence[str]
    targets: Sequence[str]
    seeds: Sequence[int] = (0,)
    required_breakers: Sequence[str] = ()
    required_targets: Sequence[str] = ()
    floor: float = 0.5
    recipe: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @classmethod
    def bare(cls) -> Suite:
        """Return a suite of nothing, in which every name has the component's own defaults."""
        return cls("", "", (), (), (), ())


@dataclass(frozen=True)
class Selection:
    """What a run is made of: a suite's lists, or the user's in their place, as components."""

    suite: Suite
    sources: Sequence[Source]
    noises: Sequence[Noise]
    chains: Sequence[tuple[Breaker, ...]]
    targets: Sequence[Target]
    recipe: Recipe
    seeds: Sequence[int]


def available() -> dict[str, Path]:
    """Return the suites that plug-ins bring in their `suites` folder, by name."""
    found: dict[str, Path] = {}
    for folder in plugins.folders("suites"):
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def read(name: str) -> Suite:
    """Return a suite by name or by the path of a TOML file; raises `UserError`."""
    path = Path(name) if name.endswith(".toml") else available().get(name)
    if path is None:
        raise UserError(f"unknown suite {name!r}{spec.nearest(name, available())}; or give the path of a .toml file")
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read suite {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"suite {path} is no TOML: {error}") from None
    return _check(path, table)


def _check(path: Path, table: dict[str, Any]) -> Suite:
    def take(place: str, table: dict[str, Any], allowed: Sequence[str]) -> None:
        for key in table:
            if key not in allowed:
                raise UserError(f"suite {path}: {place} has no key {key!r}{spec.nearest(key, allowed)}")

    def texts(place: str, value: Any) -> list[str]:
        if not (isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)):
            raise UserError(f"suite {path}: {place} must be a list of names, not {value!r}")
        return value

    def section(place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UserError(f"suite {path}: {place} must be a table, not {value!r}")
        return value

    take("the suite", table, ("title", *LISTS, "seeds", "required", "floor", "recipe", "defaults"))
    for key in ("title", *LISTS):
        if key not in table:
            raise UserError(f"suite {path}: {key} is missing")
    required = section("required", table.get("required", {}))
    take("required", required, ("breakers", "targets"))
    recipe = section("recipe", table.get("recipe", {}))
    take("recipe", recipe, list(spec.kinds(Recipe)))
    defaults = section("defaults", table.get("defaults", {}))
    take("defaults", defaults, list(plugins.KINDS))
    for kind, components in defaults.items():
        for component, values in section(f"defaults.{kind}", components).items():
            section(f"defaults.{kind}.{component}", values)
    seeds = table.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(type(one) is int and one >= 0 for one in seeds)):
        raise UserError(f"suite {path}: seeds must be a list of whole numbers, not {seeds!r}")
    floor = table.get("floor", 0.5)
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
        raise UserError(f"suite {path}: floor must be a number in [0, 1], not {floor!r}")
    lists = {key: texts(key, table[key]) for key in LISTS}
    return Suite(
        name=path.stem,
        title=str(table["title"]),
        **lists,
        seeds=seeds,
        required_breakers=texts("required.breakers", required.get("breakers", lists["breakers"])),
        required_targets=texts("required.targets", required.get("targets", lists["targets"])),
        floor=float(floor),
        recipe=recipe,
        defaults=defaults,
    )


def chain(suite: Suite, text: str) -> tuple[Breaker, ...]:
    """Turn `breaker+breaker` into a chain, with the suite's defaults; raises `UserError`."""
    made = [plugins.registry().build("breaker", part, suite.defaults) for part in spec.split(text, "+")]
    return spec.chain(cast(list[Breaker], made))


def select(
    suite: Suite,
    *,
    datasets: Sequence[str] = (),
    noises: Sequence[str] = (),
    breakers: Sequence[str] = (),
    targets: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Selection:
    """Turn a suite into components; a list that is given replaces the suite's. Raises `UserError`."""

    def build(kind: str, texts: Sequence[str]) -> list[Any]:
        return list(dict.fromkeys(plugins.registry().build(kind, text, suite.defaults) for text in texts))

    recipe = {
        key: spec.convert(f"suite {suite.name}: recipe", key, spec.kinds(Recipe)[key], value)
        for key, value in suite.recipe.items()
    }
    return Selection(
        suite=suite,
        sources=build("dataset", datasets or suite.datasets),
        noises=build("noise", noises or suite.noises),
        chains=list(dict.fromkeys(chain(suite, text) for text in breakers or suite.breakers)),
        targets=build("target", targets or suite.targets),
        recipe=Recipe(**recipe),
        seeds=list(dict.fromkeys(seeds or suite.seeds)),
    )


def describe(suite: Suite, kind: str, component: Any) -> str:
    """Return a component's label: its name and what differs from this suite's defaults."""
    return spec.label(component, plugins.registry().usual(kind, component.name, suite.defaults))


def describe_chain(suite: Suite, chain: Sequence[Breaker]) -> str:
    """Return a chain's label, its members joined with `+`."""
    return "+".join(describe(suite, "breaker", one) for one in chain)
