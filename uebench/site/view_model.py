"""What the site shows: each suite's boards, the records behind them, and what is known of a noise."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from uebench.board.columns import board_document, breaker_names
from uebench.board.groups import comparable_groups
from uebench.board.headline import headline
from uebench.board.heat_map import board_heat_map
from uebench.board.next_breaker import breaker_dependence
from uebench.board.publish import GALLERY, download_files, picture_name
from uebench.board.ranking import Board, rank_results
from uebench.board.records import RecordChoice, SuiteRecords, mark_records
from uebench.board.residual_years import YearResidual, residuals_by_year, undated_breakers
from uebench.board.tables import (
    Table,
    breaker_table,
    next_breaker_sentence,
    next_breaker_table,
    noise_table,
    recipe_table,
)
from uebench.components.errors import UserError
from uebench.components.grammar import NAME_PATTERN
from uebench.planning.suite import Suite
from uebench.site.entry_facts import Origin, find_origin, last_verification
from uebench.site.figures import Sweep, breaker_sweeps
from uebench.site.rerun_command import find_rerun_command
from uebench.storage.history import read_history
from uebench.storage.result import Result
from uebench.storage.results_file import RESULTS_FILE, results_text


@dataclass(frozen=True)
class Group:
    """One comparable group of results: its rows as `data.json` has them, the texts of its tables, its curves.

    `next_breaker` has a sentence and a table on how much the list of breakers decides, where there are enough. `years`
    has, by the canonical text of a noise, its residual by year and the breakers without a year.
    """

    title: str
    setting: str
    noises: list[dict[str, Any]]
    breakers: list[dict[str, Any]]
    targets: Mapping[str, bool]
    noise_table: Table
    breaker_table: Table
    next_breaker: tuple[str, Table] | None
    years: Mapping[str, tuple[list[YearResidual], list[str]]]
    sweeps: list[Sweep]
    records: list[Result]

    @property
    def chains(self) -> dict[str, bool]:
        """The chains of breakers, and whether a rank needs them, the strongest first."""
        return {row["breaker"]: row["required"] for row in self.breakers}

    @property
    def classes(self) -> list[tuple[str, list[tuple[dict[str, Any], list[str]]]]]:
        """Rows with their texts by budget class; the clean reference comes first, in a class without a name."""
        pairs = zip(self.noises, self.noise_table[1], strict=True)
        found = groupby(pairs, lambda pair: "" if pair[0]["status"] == "reference" else str(pair[0]["budget"]))
        return [(name, list(rows)) for name, rows in found]

    @property
    def clean_accuracy(self) -> float | None:
        """The accuracy of plain training on clean images, if it is known."""
        references = [row for row in self.noises if row["status"] == "reference"]
        plain = references[0]["accuracies"].get("none") if references else None
        return plain["mean"] if plain else None

    @property
    def placed(self) -> list[dict[str, Any]]:
        """The rows with a rank and a cost, which figures show."""
        return [row for row in self.noises if row["rank"] is not None and row["noise_seconds"] is not None]

    @property
    def residuals(self) -> list[float]:
        """Every residual protection and bound of one that a figure must have room for."""
        names = ("residual_protection", "residual_low", "residual_high")
        return [row[name] for row in self.placed for name in names if row[name] is not None]

    @property
    def remaining(self) -> list[dict[str, Any]]:
        """The rows with a rank, that with most protection against every breaker on the board first."""
        return sorted(self.placed, key=lambda row: (-(row["residual_best_known"] or 0), row["noise"]))


@dataclass(frozen=True)
class Section:
    """A suite's part of the site: its boards, and the files beside them by name.

    `shown` says whose results these are. `downloads` has the board's own tables as CSV, LaTeX and JSON. `heat_map` and
    `headline` are of the first board with several breakers.
    """

    suite: Suite
    place: str
    groups: list[Group]
    pictures: list[Path]
    record: bytes
    history: list[dict[str, Any]]
    recipes: Table
    shown: RecordChoice
    downloads: Mapping[str, bytes]
    heat_map: bytes = b""
    headline: str = ""

    @property
    def answer(self) -> str:
        """Which noises still protect, and how much, in markdown; empty where none has a rank."""
        rows = [row for row in self.groups[0].remaining if row["best_known_breaker"] in row["accuracies"]]
        clean = self.groups[0].clean_accuracy
        if not rows or clean is None:
            return ""
        first, last = rows[0], rows[-1]
        least = f" `{last['noise']}` protects least: {_best_known_text(last)}."
        return (
            f"Plain training on clean images of {self.groups[0].setting} reaches {100 * clean:.1f} %. "
            f"`{first['noise']}` protects best: the strongest breaker tried against it stays "
            f"{_best_known_text(first)} below that.{least if first is not last else ''}"
        )

    @property
    def front_picture(self) -> Path | None:
        """The picture of the noise that protects best, or any other picture; None if there is none."""
        by_name = {path.name: path for path in self.pictures}
        wanted = [picture_name(row["noise"]) for row in self.groups[0].remaining]
        return next((by_name[name] for name in [*wanted, *by_name] if name in by_name), None)

    @property
    def position(self) -> tuple[bool, bool, str]:
        """The order of sections on the first page: featured suites, then those with several breakers, then others."""
        return not self.suite.featured, not self.heat_map, self.suite.name


BOARD_FILE = "board.json"
"""The boards of a suite for programs, as `uebench rank --json` prints them."""


def page_name(text: str, identity: str) -> str:
    """Return a page name that works on any disk and in any address: letters of `text`, and a hash of `identity`."""
    letters = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return f"{letters or 'x'}-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def gather_section(suite: Suite, records: SuiteRecords, record: RecordChoice) -> Section:
    """Return a suite's part of the site; raises `UserError` where the record holds no results."""
    chosen = records.choose(record)
    results, folders = chosen.values(), [records.own_folder, records.published_folder]
    folders = {"own": folders[:1], "published": folders[1:], "both": folders}[record]
    if not results:
        raise UserError(f"{folders[0] / RESULTS_FILE} holds no results; run `uebench run {suite.name}` first")
    lines = read_history(records.published_folder)
    place = suite.name if NAME_PATTERN.fullmatch(suite.name) else page_name(suite.name, suite.name)
    ranked = rank_results(suite, results, records.rulings)
    if record == "both":
        ranked = mark_records(ranked, results, records.own)
    groups = [_group(place, board, group) for board, group in zip(ranked, comparable_groups(results), strict=True)]
    by_name = {path.name: path for folder in reversed(folders) for path in (folder / GALLERY).glob("*.png")}
    pictures = [by_name[name] for name in sorted(by_name)]
    first = next((board for board in ranked if len(breaker_names(board, required=False)) > 1), None)
    return Section(
        suite,
        place,
        groups,
        pictures,
        results_text(chosen).encode(),
        lines,
        recipe_table(ranked),
        record,
        download_files(ranked) | {BOARD_FILE: _board_json(suite, ranked)},
        board_heat_map(first) if first else b"",
        headline(first) if first else "",
    )


def _board_json(suite: Suite, boards: Sequence[Board]) -> bytes:
    """Return a suite's boards as `uebench rank --json` prints them."""
    document = {"suite": suite.name, "boards": [board_document(board) for board in boards]}
    return (json.dumps(document, allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode()


def _best_known_text(row: dict[str, Any]) -> str:
    """Return the residual of a row against every breaker tried, with the breaker and its number of seeds."""
    breaker = row["best_known_breaker"]
    seeds = row["accuracies"][breaker]["seeds"]
    count = f"{seeds} seed{'' if seeds == 1 else 's'}"
    return f"**{100 * row['residual_best_known']:.1f} points** (`{breaker}`, {count})"


def _group(place: str, board: Board, records: list[Result]) -> Group:
    document = board_document(board)
    noises, breakers = document["noises"], document["breakers"]
    for row in noises:
        text = row["parameters"]  # not the label: parts of a suite may call the same noise differently
        row["page"] = f"{place}/{page_name(text.partition('@')[0], text)}.html"
    dependence = breaker_dependence(board)
    return Group(
        board.title,
        board.setting,
        noises,
        breakers,
        board.targets,
        noise_table(board),
        breaker_table(board),
        (next_breaker_sentence(dependence), next_breaker_table(dependence)) if dependence else None,
        {
            row.parameters: (residuals_by_year(row, board.breakers), undated_breakers(row, board.breakers))
            for row in board.noises
            if not row.is_reference
        },
        breaker_sweeps(records),
        records,
    )


def noise_origin(section: Section, row: dict[str, Any]) -> Origin:
    """Return where the noise of a row comes from, by its results on every board of the suite."""
    records = [result for group in section.groups for result in group.records]
    cells = [result for result in records if result.parameters["noise"] == row["parameters"]]
    return find_origin(row["parameters"], cells, section.history)


def noise_parts(section: Section, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the page of a noise shows of each comparable group that the noise is in."""
    parts = []
    for group in section.groups:
        cells = [result for result in group.records if result.parameters["noise"] == row["parameters"]]
        if cells:
            cells.sort(key=lambda result: (result.breaker, result.target, result.seed, result.key))
            made = Counter(json.dumps(result.made_with, sort_keys=True) for result in cells)
            (noise_row,) = (other for other in group.noises if other["parameters"] == row["parameters"])
            part = {"group": group, "cells": cells, "row": noise_row}
            part["verified"] = last_verification(row["parameters"], cells, section.history, section.shown)
            part["decisions"] = list(_decisions(section.history, group, row["parameters"]))
            part["made"] = [(json.loads(text), count) for text, count in sorted(made.items())]
            try:
                part |= {"command": find_rerun_command(section.suite, cells), "reason": ""}
            except UserError as error:
                part |= {"command": "", "reason": str(error)}
            parts.append(part)
    return parts


def _decisions(lines: Sequence[dict[str, Any]], group: Group, noise: str) -> Iterator[dict[str, Any]]:
    """Yield the decisions about a noise, or that changed what is left of it, with its values before and after."""
    names = {result.parameters["breaker"]: result.breaker for result in group.records}
    board_datasets = {result.parameters["dataset"] for result in group.records}
    for line in lines:
        found = [change for change in line["changes"] if (change["board"], change["noise"]) == (group.title, noise)]
        accepted = line["event"] == "accepted"
        about = noise in line["noises"] and line["dataset"] in board_datasets if accepted else noise == line["noise"]
        if about or found:
            breaker = line.get("breaker", "")
            change = found[0] if found else {"old": None, "new": None}
            yield {**line, "about": about, "breaker": names.get(breaker, breaker), **change}
