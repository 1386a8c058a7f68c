"""An entry for a board: a noise, or a breaker against listed noises, and the cells that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from uebench.board.groups import required_labels
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match, split_outside_parentheses
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.plan import ENGINE_NUMBERS
from uebench.planning.selection import resolve_recipe
from uebench.planning.suite import Suite, component_names
from uebench.storage.history import Rulings
from uebench.storage.result import Result
from uebench.storage.results_file import merge_results
from uebench.submission.bundle import Bundle
from uebench.submission.restore_components import parse_canonical

CellParts = tuple[str, str, str]
"""Noise, breaker chain and target, by canonical text."""


@dataclass(frozen=True)
class Entry:
    """A noise, or a breaker against listed noises, on one data set; components go by canonical text.

    `breaker` is empty for the entry of a noise; `noises` then has one.
    """

    part: Suite
    dataset: str
    content: str
    noises: Sequence[str]
    breaker: str

    @cached_property
    def clean(self) -> str:
        """The reference noise."""
        return canonical_text(registry().build("noise", "none"))

    @cached_property
    def needed(self) -> set[CellParts]:
        """The cells that the entry needs, with those of the clean reference."""
        breakers, targets = required_labels(self.part)
        against = [self.breaker] if self.breaker else breakers
        plain = canonical_text(registry().build("breaker", "none"))
        cells = {
            (noise, chain, target) for noise in (*self.noises, self.clean) for chain in against for target in targets
        }
        return cells if self.breaker else cells | {(self.clean, plain, target) for target in targets}

    def own(self, result: Result) -> bool:
        """Return whether a result belongs to the entry itself, not to the clean reference."""
        return result.parameters["noise"] != self.clean

    def pick(self, board: Iterable[Result]) -> list[Result]:
        """Return the results on a board that the entry needs, for every seed with which its own cells were run."""
        terms = {"dataset": self.dataset, "content": self.content, "recipe": canonical_text(resolve_recipe(self.part))}
        needed = [
            result
            for result in board
            if cell_of_result(result) in self.needed
            and (result.protected, result.kind) == (1, "mixed")
            and {name: result.parameters[name] for name in terms} == terms
        ]
        seeds = {result.seed for result in needed if self.own(result)}
        return [result for result in needed if result.seed in seeds]


def cell_of_result(result: Result) -> CellParts:
    """Return the cell of a result."""
    return result.parameters["noise"], result.parameters["breaker"], result.parameters["target"]


def entry_terms(part: Suite) -> dict[str, Any]:
    """Return the terms under which entries of a suite are comparable; other terms are another version of the suite."""
    breakers, targets = required_labels(part)
    own = {"recipe": canonical_text(resolve_recipe(part)), "breakers": sorted(breakers), "targets": sorted(targets)}
    return {"numbers": ENGINE_NUMBERS, **own, "floor": part.floor}


def derive_manifest_fields(results: Sequence[Result]) -> dict[str, Any]:
    """Return the fields of a manifest that follow from its results."""
    made_with = [result.made_with for result in results]
    return {
        "seeds": sorted({result.seed for result in results}),
        "keys": sorted(result.key for result in results),
        "made_with": {
            name: sorted({str(software.get(name)) for software in made_with}) for name in ("device", "torch", "uebench")
        },
    }


def find_obstacle(bundle: Bundle, entry: Entry, board: Mapping[str, Result], rulings: Rulings, badge: str) -> str:
    """Return why a valid bundle cannot be added to a board with this badge, or nothing."""
    if rulings.bundles.get(bundle.sha256) == badge:
        return f"this bundle was accepted before, as {badge}"
    merged, conflicts = merge_results(board, new_results(bundle, entry, board))
    if conflicts:
        return f"other numbers are on record, and nothing is averaged: {conflicts[0]}"
    if not entry.breaker and bundle.sha256 not in rulings.bundles and len(merged) == len(board):
        return "all its results are on record; there is nothing to accept"
    return ""


def new_results(bundle: Bundle, entry: Entry, board: Mapping[str, Result]) -> list[Result]:
    """Return the results of a bundle that a board takes: those of the entry itself, and references that it lacks."""
    return [result for result in bundle.results if entry.own(result) or result.key not in board]


def entry_from_bundle(bundle: Bundle, suite: Suite) -> Entry:
    """Return the entry of a bundle in a suite; raises `UserError` where its terms or components are not the suite's."""
    manifest = bundle.manifest
    if manifest["suite"] != suite.name:
        raise UserError(f"the bundle is of suite {manifest['suite']!r}, not of {suite.name!r}")
    name, _, _ = parse_canonical("dataset", manifest["dataset"])
    known = {component_names(text): text for part in suite.parts for text in part.datasets}
    if name not in known:
        raise UserError(f"suite {suite.name} has no data set {name!r}{nearest_match(name, known)}")
    part = suite.part(name)
    suite_datasets = list(_suite_datasets(part, name))
    if suite_datasets and manifest["dataset"] not in suite_datasets:
        raise UserError(f"data set {manifest['dataset']!r} is not that of suite {suite.name}: {suite_datasets[0]!r}")
    for key, term in entry_terms(part).items():
        if manifest["terms"][key] != term:
            raise UserError(
                f"the bundle is of another version of suite {suite.name}: "
                f"{key} {manifest['terms'][key]!r}, here {term!r}"
            )
    clean, breakers = canonical_text(registry().build("noise", "none")), required_labels(part)[0]
    for text in manifest["noises"]:
        parse_canonical("noise", text)
    if len(set(manifest["noises"])) != len(manifest["noises"]) or clean in manifest["noises"] or not manifest["noises"]:
        raise UserError("the bundle names no noise, one twice, or the clean set")
    for text in split_outside_parentheses(manifest["breaker"], "+") if manifest["breaker"] else ():
        parse_canonical("breaker", text)
    if not manifest["breaker"] and len(manifest["noises"]) > 1:
        raise UserError(f"the bundle hands in {len(manifest['noises'])} noises at once; an entry is of one")
    if manifest["breaker"] in breakers:
        raise UserError(
            f"breaker {breakers[manifest['breaker']]} is required in suite {suite.name}; hand in the noise instead"
        )
    return Entry(part, manifest["dataset"], manifest["content"], manifest["noises"], manifest["breaker"])


def _suite_datasets(part: Suite, name: str) -> Iterator[str]:
    """Yield the canonical texts of a suite's data sets of this name, without those that need a path."""
    for text in part.datasets:
        if component_names(text) == name:
            with suppress(UserError):
                yield canonical_text(registry().build("dataset", text, part.defaults))
