"""A suite: the lists that make a cross product, a recipe, and what a bare name means in it; read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match, parse_component, split_outside_parentheses
from uebench.components.registry import plugin_folders
from uebench.planning.suite_file import GRID_KEYS, LIST_KEYS, ShareKind, SuiteFile, merge_defaults, merge_recipes

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
"""Families of recipes. What else a suite or the user says of a recipe goes over its family's settings; a grid, or a
suite like another, that names a family owes nothing to the other's recipe."""


@dataclass(frozen=True)
class Claim:
    """What a paper says of its numbers: test accuracy on each of some noises is below that on each of some others.

    Under each of `breakers`, or under every one of the suite where there are none; on every data set and target.
    """

    says: str
    lower: Sequence[str]
    higher: Sequence[str]
    breakers: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """Names and parameters only; nothing in it is a component yet.

    `recipe` says what differs from its `family` in `RECIPES`. `protected` are shares of protected images; `kind` says
    whether the others are there (`mixed`) or everything protected is left out (`clean-only`). `references` adds the
    clean set under every breaker, and every noise under no breaker. `defaults` is
    `{kind: {name or "*": {parameter: value}}}`. An entry of the board needs every required breaker on every required
    target; with `required_run` a run has those breakers whichever are asked for. `floor` is the share of the plain
    clean accuracy that a breaker must keep on clean images to count for the same-breaker gap. `grids` are the cross
    products of a suite that is more than one, each a suite itself.
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
    recipe: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    grids: Sequence[Suite] = ()
    claims: Sequence[Claim] = ()
    labels: dict[Any, str] = field(init=False, default_factory=dict, compare=False, repr=False)
    """What components are called here, as far as it was asked."""

    @property
    def parts(self) -> Sequence[Suite]:
        """The cross products that the suite consists of."""
        return self.grids or (self,)

    def part(self, dataset: str, noise: str = "") -> Suite:
        """Return the first cross product that has a data set of this name, or the suite.

        Of several, ranks and entries go by the first. With the name of a noise it is the one that names its results:
        the first that has both, where there is one.
        """
        found = [part for part in self.parts if dataset in map(component_names, part.datasets)]
        both = [part for part in found if noise in map(component_names, part.noises)]
        return next(iter([*both, *found]), self)


def available_suites() -> dict[str, Path]:
    """Return the suites that plug-ins bring in their `suites` folder, by name."""
    found: dict[str, Path] = {}
    for folder in plugin_folders("suites"):
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def read_suite(name: str) -> Suite:
    """Return a suite by name or by the path of a TOML file; raises `UserError`."""
    path = _find(name)
    return _check(path, _table(path))


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".toml") else available_suites().get(name)
    if path is None:
        raise UserError(
            f"unknown suite {name!r}{nearest_match(name, available_suites())}; or give the path of a .toml file"
        )
    return path


def _table(path: Path, below: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what a file says, laid over what the suite says that it is like; raises `UserError`."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read suite {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"suite {path} is no TOML: {error}") from None
    file = SuiteFile(path)
    merged = {key: file.section(key, table.get(key, {})) for key in ("required", "recipe")}
    merged["defaults"] = file.defaults(table)
    like = table.pop("like", None)
    if like is None:
        return {**table, **merged}
    if not isinstance(like, str):
        raise file.refuse(f"like must be the name of a suite, not {like!r}")
    if path in below:
        raise file.refuse(f"like = {like!r} leads back to it")
    usual = _table(path.parent / like if like.endswith(".toml") else _find(like), (*below, path))
    return {
        **usual,
        **table,
        "required": {**usual["required"], **merged["required"]},
        "recipe": merge_recipes(usual["recipe"], merged["recipe"]),
        "defaults": merge_defaults(usual["defaults"], merged["defaults"]),
    }


def _check(path: Path, table: dict[str, Any]) -> Suite:
    """Return the suite that a file describes; raises `UserError` for anything in it that has no meaning."""
    file = SuiteFile(path)
    file.take("the suite", table, ("title", "seeds", "required", "floor", "references", "claims", "grid", *GRID_KEYS))
    grids = file.tables("grid", table)
    for grid in grids:
        file.take("a grid", grid, GRID_KEYS)
    for key in ("title", *(LIST_KEYS if not grids else ())):
        if key not in table:
            raise file.refuse(f"{key} is missing")
    required = file.section("required", table.get("required", {}))
    file.take("required", required, ("breakers", "targets", "run"))
    seeds = table.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)):
        raise file.refuse(f"seeds must be a list of whole numbers below 2^32, not {seeds!r}")
    floor = table.get("floor", 0.5)
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
        raise file.refuse(f"floor must be a number in [0, 1], not {floor!r}")
    switches = {"references": table.get("references", True), "required.run": required.get("run", False)}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise file.refuse(f"{key} must be true or false, not {value!r}")
    common: dict[str, Any] = {"name": path.stem, "title": str(table["title"]), "seeds": seeds, "floor": float(floor)}
    common |= {"references": switches["references"], "required_run": switches["required.run"]}

    def build(table: Mapping[str, Any]) -> Suite:
        lists = file.lists(table)
        needed: dict[str, Any] = {
            f"required_{key}": file.texts(f"required.{key}", required.get(key, lists.get(key, ["none"])))
            for key in ("breakers", "targets")
        }
        return Suite(**common, **lists, **needed)

    parts = []
    for grid in grids:
        merged = {**{key: table[key] for key in GRID_KEYS if key in table}, **grid}
        merged["recipe"] = merge_recipes(table.get("recipe", {}), file.section("recipe", grid.get("recipe", {})))
        merged["defaults"] = merge_defaults(table.get("defaults", {}), grid.get("defaults", {}))
        for key in LIST_KEYS:
            if key not in merged:
                raise file.refuse(f"a grid has no {key}")
        parts.append(build(merged))
    return replace(
        build(table), grids=tuple(parts), claims=[Claim(**file.claim(claim)) for claim in file.tables("claims", table)]
    )


def component_names(text: str) -> str:
    """Return the names in a specification or a chain, without parameters."""
    return "+".join(parse_component(part)[0] for part in split_outside_parentheses(text, "+"))
