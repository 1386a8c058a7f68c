"""Builds the boards as a static site: a page that lists the suites, a page for each of them and for each noise."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from uebench import again, figures, grouping, history, leaderboard, pages, ranking, spec, tables
from uebench.component import UserError
from uebench.result import Result
from uebench.store import write_whole
from uebench.suite import Suite, read

LOADER = PackageLoader("uebench", "site")
MARK = '<meta name="generator" content="uebench">'
"""Tells our pages from others in a folder."""
# `file:` because to some browsers a page from disk is no origin that 'self' could name.
POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:"

# Signs that turn the direction of the text after them, our own included, and those that no page may hold.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Group:
    """One comparable group of results: its rows as `data.json` has them, the texts of its tables, its curves."""

    title: str
    noises: list[dict[str, Any]]
    breakers: list[dict[str, Any]]
    targets: Mapping[str, bool]
    noise_table: tuple[list[str], list[list[str]]]
    breaker_table: tuple[list[str], list[list[str]]]
    sweeps: list[figures.Sweep]
    records: list[Result]

    @property
    def chains(self) -> dict[str, bool]:
        """The chains of breakers, and whether a rank needs them, the strongest first."""
        return {row["breaker"]: row["required"] for row in self.breakers}

    @property
    def classes(self) -> list[tuple[str, list[tuple[dict[str, Any], list[str]]]]]:
        """Rows and their texts by budget class; the clean reference comes first, without one."""
        pairs = zip(self.noises, self.noise_table[1], strict=True)
        found = groupby(pairs, lambda pair: "" if pair[0]["status"] == "reference" else str(pair[0]["budget"]))
        return [(name, list(rows)) for name, rows in found]

    @property
    def placed(self) -> list[dict[str, Any]]:
        """The rows with a rank and a cost, which figures show."""
        return [row for row in self.noises if row["rank"] is not None and row["noise_seconds"] is not None]

    @property
    def residuals(self) -> list[float]:
        """Every residual protection and bound of one that a figure must have room for."""
        names = ("residual_protection", "residual_low", "residual_high")
        return [row[name] for row in self.placed for name in names if row[name] is not None]


@dataclass(frozen=True)
class Section:
    """A suite's part of the site."""

    suite: Suite
    place: str
    groups: list[Group]
    pictures: list[Path]
    record: bytes
    history: list[dict[str, Any]]
    recipes: tuple[list[str], list[list[str]]]


def write(boards: Path, into: Path, names: Sequence[str] = ()) -> Path:
    """Write the site of some suites, by default of every board in a folder, and return its first page.

    Pages of noises that are no longer on record are removed. Raises `UserError` where there is nothing to show.
    """
    made = build(boards, names)
    for name, content in made.items():
        write_whole(into / name, content)
    written = {into / name for name in made}
    for path in {other for one in written if one.parent != into for other in one.parent.glob("*.html")} - written:
        if MARK.encode() in path.read_bytes():
            path.unlink()
    return into / "index.html"


def build(boards: Path, names: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the site's content by path: the same records give the same bytes."""
    names = names or sorted(path.parent.name for path in boards.glob("*/results.jsonl"))
    sections = [_section(read(name), boards) for name in dict.fromkeys(names)]
    if not sections:
        raise UserError(f"{boards} holds no board; run `uebench run` first")
    words = tomllib.loads(_source("words.toml"))
    environment = Environment(
        loader=LOADER,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figures=figures, number=spec.number, words=words, policy=POLICY, mark=Markup(MARK))
    environment.globals.update(reading=_rich(pages.READING), on_targets=pages.TARGETS, on_recipes=pages.RECIPES)
    made = {name: _source(name).encode() for name in ("style.css", "board.js")}

    def page(name: str, template: str, **values: Any) -> None:
        made[name] = environment.get_template(template).render(home="../" * name.count("/"), **values).encode()

    page("index.html", "index.html", sections=sections)
    for section in sections:
        made[f"{section.place}/results.jsonl"] = section.record
        made |= {f"{section.place}/{pages.GALLERY}/{path.name}": path.read_bytes() for path in section.pictures}
        entries = {row["parameters"]: row for group in section.groups for row in group.noises}
        page(f"{section.place}/index.html", "suite.html", section=section)
        for row in entries.values():
            drawn = pages.picture(row["noise"])
            picture = drawn if drawn in {path.name for path in section.pictures} else ""
            page(row["page"], "entry.html", section=section, entry=row, picture=picture, parts=_parts(section, row))
    made["data.json"] = _data(sections, words)
    return made


def place(text: str, identity: str) -> str:
    """Return a name for a page that is fit for any disk and address: letters of the text, and a hash of what it is."""
    letters = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return f"{letters or 'x'}-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _section(suite: Suite, boards: Path) -> Section:
    path = boards / suite.name / "results.jsonl"
    results = leaderboard.read(path).values()
    if not results:
        raise UserError(f"{path} holds no results; run `uebench run {suite.name}` first")
    lines = history.read(path.parent)
    where = suite.name if spec.NAME.fullmatch(suite.name) else place(suite.name, suite.name)
    ranked = ranking.rank(suite, results, history.rulings(lines))
    groups = [_group(where, *both) for both in zip(ranked, grouping.groups(results), strict=True)]
    pictures = sorted((path.parent / pages.GALLERY).glob("*.png"))
    return Section(suite, where, groups, pictures, path.read_bytes(), lines, tables.recipes(ranked))


def _group(where: str, board: ranking.Board, records: list[Result]) -> Group:
    noises, breakers = _rows(board.noises), _rows(board.breakers)
    for row in noises:
        row["accuracies"] = _gathered(row, "accuracy ", "deviation ")
        row["targets"] = _gathered(row, "target ", "target-deviation ")
        text = row["parameters"]  # not the label: parts of a suite may call the same noise differently
        row["page"] = f"{where}/{place(text.partition('@')[0], text)}.html"
    shown = tables.noises(board), tables.breakers(board)
    return Group(board.title, noises, breakers, board.targets, *shown, figures.sweeps(records), records)


def _gathered(row: dict[str, Any], mean: str, deviation: str) -> dict[str, dict[str, float | None]]:
    """Take what is known under two prefixes out of a row, and return it by what follows them."""
    names = [name.removeprefix(mean) for name in row if name.startswith(mean)]
    found = {name: {"mean": row.pop(mean + name), "deviation": row.pop(deviation + name)} for name in names}
    return {name: both for name, both in found.items() if both["mean"] is not None}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a board's rows for programs: None for what is unknown, six decimals, flags as a list."""

    def plain(name: str, value: Any) -> Any:
        if name == "flags":
            return value.split(", ") if value else []
        if name in ("rank", "band"):
            return None if value is None else int(value)
        if isinstance(value, float):
            return round(value, 6) if math.isfinite(value) else None
        return value

    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): plain(str(name), value) for name, value in row.items()} for row in rows]


def _parts(section: Section, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the page of a noise shows of each comparable group that the noise is in."""
    parts = []
    for group in section.groups:
        cells = [one for one in group.records if one.parameters["noise"] == row["parameters"]]
        if cells:
            cells.sort(key=lambda one: (one.breaker, one.target, one.seed, one.key))
            made = Counter(json.dumps(one.made_with, sort_keys=True) for one in cells)
            (own,) = (one for one in group.noises if one["parameters"] == row["parameters"])
            part = {"group": group, "cells": cells, "row": own}
            part["decisions"] = list(_decisions(section.history, group, row["parameters"]))
            part["made"] = [(json.loads(text), count) for text, count in sorted(made.items())]
            try:
                part |= {"command": again.command(section.suite, cells), "reason": ""}
            except UserError as error:
                part |= {"command": "", "reason": str(error)}
            parts.append(part)
    return parts


def _decisions(lines: Sequence[dict[str, Any]], group: Group, noise: str) -> Iterator[dict[str, Any]]:
    """Yield the decisions about a noise, or that changed what is left of it, with its values before and after."""
    names = {one.parameters["breaker"]: one.breaker for one in group.records}
    here = {one.parameters["dataset"] for one in group.records}
    for line in lines:
        found = [one for one in line["changes"] if (one["board"], one["noise"]) == (group.title, noise)]
        accepted = line["event"] == "accepted"
        about = noise in line["noises"] and line["dataset"] in here if accepted else noise == line["noise"]
        if about or found:
            breaker = line.get("breaker", "")
            change = found[0] if found else {"old": None, "new": None}
            yield {**line, "about": about, "breaker": names.get(breaker, breaker), **change}


def _data(sections: Sequence[Section], words: dict[str, Any]) -> bytes:
    suites = {
        section.suite.name: {
            "title": section.suite.title,
            "boards": [
                {"title": group.title, "noises": group.noises, "breakers": group.breakers} for group in section.groups
            ],
        }
        for section in sections
    }
    table = {"schema": 1, "fields": words["fields"], "flags": words["flags"], "suites": suites}
    return (json.dumps(table, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def _source(name: str) -> str:
    return LOADER.get_source(Environment(), name)[0]


def _rich(text: str) -> Markup:
    """Return a text with markdown's stars as HTML."""
    return Markup(re.sub(r"(\*+)(.+?)\1", r"<strong>\2</strong>", str(escape(text)), flags=re.DOTALL))
