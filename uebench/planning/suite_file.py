"""Reads suites from TOML files: checks their types, and lays a suite over the one that it is like."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta, Struct

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.kinds import KINDS
from uebench.components.recipe import Recipe
from uebench.components.registry import plugin_folders
from uebench.components.spec import convert_value, parameter_types
from uebench.planning.suite import Claim, ShareKind, Suite

Names = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
LIST_KEYS = ("datasets", "noises", "breakers", "targets")


class _GridTable(Struct):
    """What one cross product of a suite may state; None is left to the suite."""

    datasets: Names | None = None
    noises: Names | None = None
    breakers: Names | None = None
    targets: Names | None = None
    protected: Annotated[list[Any], Meta(min_length=1)] | None = None
    kind: str | None = None
    recipe: dict[str, Any] = {}
    defaults: dict[str, dict[str, dict[str, Any]]] = {}


class _RequiredTable(Struct):
    breakers: Names | None = None
    targets: Names | None = None
    run: bool = False


class _ClaimTable(Struct):
    lower: Names
    higher: Names
    says: str = ""
    breakers: Names | None = None


class _SuiteTable(_GridTable):
    """A suite's file; it needs a title, and lists unless it has grids."""

    title: str | None = None
    like: str | None = None
    seeds: Annotated[list[Annotated[int, Meta(ge=0, lt=2**32)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [0]
    )
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.5
    featured: bool = False
    references: bool = True
    required: _RequiredTable = msgspec.field(default_factory=_RequiredTable)
    claims: list[_ClaimTable] = []
    grid: list[_GridTable] = []


def available_suites() -> dict[str, Path]:
    """Return the suites in the `suites` folders of plug-ins, by name."""
    suites: dict[str, Path] = {}
    for folder in plugin_folders("suites"):
        for path in sorted(folder.glob("*.toml")):
            suites.setdefault(path.stem, path)
    return suites


def read_suite(name: str) -> Suite:
    """Return a suite by name or by the path of a TOML file; raises `UserError`."""
    path = _find_suite(name)
    return _make_suite(path, _read_table(path))


def _find_suite(name: str) -> Path:
    path = Path(name) if name.endswith(".toml") else available_suites().get(name)
    if path is None:
        raise UserError(
            f"unknown suite {name!r}{nearest_match(name, available_suites())}; or give the path of a .toml file"
        )
    return path


def _read_table(path: Path, below: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the checked table of a file, laid over that of the suite that it is like; raises `UserError`."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read suite {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"suite {path} is no TOML: {error}") from None
    _check_keys(path, table)
    _convert(path, table)
    like = table.pop("like", None)
    if like is None:
        return table
    if path in below:
        raise UserError(f"suite {path}: like = {like!r} leads back to it")
    usual = _read_table(path.parent / like if like.endswith(".toml") else _find_suite(like), (*below, path))
    return {
        **usual,
        **table,
        "featured": table.get("featured", False),
        "required": {**usual.get("required", {}), **table.get("required", {})},
        "recipe": _merge_recipes(usual.get("recipe", {}), table.get("recipe", {})),
        "defaults": _merge_defaults(usual.get("defaults", {}), table.get("defaults", {})),
    }


def _convert(path: Path, table: Mapping[str, Any]) -> _SuiteTable:
    try:
        return msgspec.convert(table, _SuiteTable)
    except msgspec.ValidationError as error:
        raise UserError(f"suite {path}: {error}") from None


def _check_keys(path: Path, table: Mapping[str, Any]) -> None:
    """Raise `UserError` for a key without a meaning, with the nearest one; values of a wrong type are left alone."""

    def check(subject: str, part: Any, allowed: Iterable[str]) -> None:
        for key in part if isinstance(part, dict) else ():
            if key not in (names := list(allowed)):
                raise UserError(f"suite {path}: {subject} has no key {key!r}{nearest_match(key, names)}")

    def tables(key: str) -> list[Any]:
        parts = table.get(key, [])
        return parts if isinstance(parts, list) else []

    check("the suite", table, _SuiteTable.__struct_fields__)
    check("required", table.get("required"), _RequiredTable.__struct_fields__)
    for claim in tables("claims"):
        check("a claim", claim, _ClaimTable.__struct_fields__)
    for grid in tables("grid"):
        check("a grid", grid, _GridTable.__struct_fields__)
    for part in [table, *(grid for grid in tables("grid") if isinstance(grid, dict))]:
        check("recipe", part.get("recipe"), ["family", *parameter_types(Recipe)])
        check("defaults", part.get("defaults"), KINDS)


def _make_suite(path: Path, table: dict[str, Any]) -> Suite:
    """Return the suite that a complete table describes; raises `UserError` where something is missing or wrong."""
    whole = _convert(path, table)
    if whole.title is None:
        raise UserError(f"suite {path}: title is missing")

    def build(part: _GridTable, subject: str) -> Suite:
        lists = {key: getattr(part, key) for key in LIST_KEYS}
        for key in LIST_KEYS:
            if lists[key] is None and not (part is whole and whole.grid):
                raise UserError(f"suite {path}: {subject}{key} is missing")
        kind = part.kind or "mixed"
        if kind not in get_args(ShareKind):
            raise UserError(f"suite {path}: kind cannot be {kind!r}{nearest_match(kind, get_args(ShareKind))}")
        return Suite(
            name=path.stem,
            title=whole.title or "",
            seeds=whole.seeds,
            floor=float(whole.floor),
            featured=whole.featured,
            references=whole.references,
            required_run=whole.required.run,
            required_breakers=whole.required.breakers or lists["breakers"] or ["none"],
            required_targets=whole.required.targets or lists["targets"] or ["none"],
            recipe=part.recipe,
            defaults=part.defaults,
            protected=[parse_share(share) for share in part.protected or [1.0]],
            kind=kind,  # type: ignore[arg-type]
            **{key: names for key, names in lists.items() if names is not None},
        )

    grids = []
    for grid in whole.grid:
        common = {name: getattr(whole, name) for name in _GridTable.__struct_fields__}
        own = {name: value for name in common if (value := getattr(grid, name)) is not None}
        merged = {**common, **own}
        merged["recipe"] = _merge_recipes(whole.recipe, grid.recipe)
        merged["defaults"] = _merge_defaults(whole.defaults, grid.defaults)
        grids.append(build(_GridTable(**merged), "a grid: "))
    claims = [Claim(claim.says, claim.lower, claim.higher, claim.breakers or ()) for claim in whole.claims]
    return replace(build(whole, ""), grids=tuple(grids), claims=claims)


def _merge_recipes(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one recipe over another; one that names its family starts from that alone."""
    return dict(own) if "family" in own else {**common, **own}


def _merge_defaults(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one table of defaults over another."""
    return {
        kind: {
            name: {**common.get(kind, {}).get(name, {}), **own.get(kind, {}).get(name, {})}
            for name in {**common.get(kind, {}), **own.get(kind, {})}
        }
        for kind in {**common, **own}
    }


def parse_share(value: Any) -> float:
    """Return a share of protected images; raises `UserError` outside (0, 1]."""
    number: float = convert_value("protected", "share", float, value)
    if not 0 < number <= 1:
        raise UserError(f"a protected share must lie in (0, 1], not {value}")
    return number
