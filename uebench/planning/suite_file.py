"""The tables of a suite's TOML file: taken apart, laid over one another, and refused where they mean nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.kinds import KINDS
from uebench.components.recipe import Recipe
from uebench.components.spec import convert_value, parameter_types

LIST_KEYS = ("datasets", "noises", "breakers", "targets")
GRID_KEYS = (*LIST_KEYS, "protected", "kind", "recipe", "defaults")
"""What one cross product of a suite may say of itself."""
ShareKind = Literal["mixed", "clean-only"]


@dataclass(frozen=True)
class SuiteFile:
    """The file of a suite: takes its tables apart, and names what is wrong with them."""

    path: Path

    def refuse(self, reason: str) -> UserError:
        """Return the error that names the file and what is wrong with it."""
        return UserError(f"suite {self.path}: {reason}")

    def take(self, place: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
        """Raise `UserError` for a key without a meaning here; those below do so for values of a wrong type."""
        for key in table:
            if key not in allowed:
                raise self.refuse(f"{place} has no key {key!r}{nearest_match(key, allowed)}")

    def texts(self, place: str, value: Any) -> list[str]:
        """Return a list of names."""
        if not (isinstance(value, list) and value and all(isinstance(text, str) and text for text in value)):
            raise self.refuse(f"{place} must be a list of names, not {value!r}")
        return value

    def section(self, place: str, value: Any) -> dict[str, Any]:
        """Return a table."""
        if not isinstance(value, dict):
            raise self.refuse(f"{place} must be a table, not {value!r}")
        return value

    def tables(self, key: str, table: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return an array of tables, empty where there is none."""
        found = table.get(key, [])
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            raise self.refuse(f"{key} must be written [[{key}]], not {found!r}")
        return found

    def claim(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a claim consists of."""
        self.take("a claim", table, ("says", "lower", "higher", "breakers"))
        lists = {key: self.texts(key, table.get(key)) for key in ("lower", "higher")}
        breakers = self.texts("breakers", table["breakers"]) if "breakers" in table else ()
        return {"says": str(table.get("says", "")), "breakers": breakers, **lists}

    def defaults(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return what bare names mean."""
        found = self.section("defaults", table.get("defaults", {}))
        self.take("defaults", found, list(KINDS))
        for kind, components in found.items():
            for component, values in self.section(f"defaults.{kind}", components).items():
                self.section(f"defaults.{kind}.{component}", values)
        return found

    def lists(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a cross product is made of."""
        found: dict[str, Any] = {key: self.texts(key, table[key]) for key in LIST_KEYS if key in table}
        found["recipe"] = self.section("recipe", table.get("recipe", {}))
        self.take("recipe", found["recipe"], ["family", *parameter_types(Recipe)])
        found["defaults"] = self.defaults(table)
        found["protected"] = table.get("protected", [1.0])
        if not isinstance(found["protected"], list) or not found["protected"]:
            raise self.refuse(f"protected must be a list of shares, not {found['protected']!r}")
        found["protected"] = [parse_share(share) for share in found["protected"]]
        found["kind"] = table.get("kind", "mixed")
        if found["kind"] not in get_args(ShareKind):
            raise self.refuse(
                f"kind cannot be {found['kind']!r}{nearest_match(str(found['kind']), get_args(ShareKind))}"
            )
        return found


def merge_recipes(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one recipe over another; one that names its family starts from that alone."""
    return dict(own) if "family" in own else {**common, **own}


def merge_defaults(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one table of defaults over another."""
    kinds = {*common, *own}
    return {
        kind: {
            name: {**common.get(kind, {}).get(name, {}), **own.get(kind, {}).get(name, {})}
            for name in {**common.get(kind, {}), **own.get(kind, {})}
        }
        for kind in kinds
    }


def parse_share(value: Any) -> float:
    """Return a share of protected images; raises `UserError` outside (0, 1]."""
    number: float = convert_value("protected", "share", float, value)
    if not 0 < number <= 1:
        raise UserError(f"a protected share must lie in (0, 1], not {value}")
    return number
