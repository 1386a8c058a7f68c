"""Builds the boards as a static site: a page that lists the suites, a page for each of them and for each noise."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from uebench.board.columns import BREAKER_COLUMNS, NOISE_COLUMNS
from uebench.board.publish import (
    GALLERY,
    HEAT_MAP_FILE,
    NEXT_BREAKER_TEXT,
    READING_TEXT,
    RECIPES_TEXT,
    TARGETS_TEXT,
    picture_name,
)
from uebench.board.records import RecordChoice, own_folder, read_records
from uebench.components.errors import UserError
from uebench.components.spec import format_number
from uebench.planning.suite_file import read_suite
from uebench.site import figures
from uebench.site.documents import render_documents
from uebench.site.entry_facts import ADDRESS
from uebench.site.view_model import Section, gather_section, noise_origin, noise_parts
from uebench.storage.atomic_files import write_atomically

_STORE = Path(".uebench")
"""The usual store."""
LOADER = PackageLoader("uebench.site", "templates")
STATIC = files("uebench.site") / "static"
MARK = '<meta name="generator" content="uebench">'
"""Tells our pages from others in a folder."""
# `file:` because to some browsers a page from disk is no origin that 'self' could name.
POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:"

# Signs that turn the direction of the text after them, our own included, and those that no page may hold.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_site(
    boards: Path,
    into: Path,
    names: Sequence[str] = (),
    store: Path = _STORE,
    record: RecordChoice | None = None,
    repository: str = "",
) -> Path:
    """Write the site of some suites, by default of every board, and return its first page.

    It shows the published results in a folder of boards, or by `record` the user's own in a store, or both.
    Every page links the address `repository`, if there is one. Pages of noises that are no longer on record are
    removed. Raises `UserError` where there is nothing to show, and for an address that is not http or https.
    """
    contents = build_site(boards, names, store, record, repository)
    for name, content in contents.items():
        write_atomically(into / name, content)
    written = {into / name for name in contents}
    folders = {path.parent for path in written} - {into}
    for page in {page for folder in folders for page in folder.glob("*.html")} - written:
        if MARK.encode() in page.read_bytes():
            page.unlink()
    return into / "index.html"


def build_site(
    boards: Path,
    names: Sequence[str] = (),
    store: Path = _STORE,
    record: RecordChoice | None = None,
    repository: str = "",
) -> dict[str, bytes]:
    """Return the site's content by path: the same records give the same bytes."""
    if repository and not ADDRESS.fullmatch(repository):
        raise UserError(f"the repository must be an http or https address, not {repository!r}")
    own = {path.parent.name for path in own_folder(store, "").glob("*/results.jsonl")}
    published = {path.parent.name for path in boards.glob("*/results.jsonl")}
    choices = {None: published or own, "published": published, "own": own, "both": own | published}
    names = names or sorted(choices[record])
    sections = []
    for suite in map(read_suite, dict.fromkeys(names)):
        records = read_records(suite.name, store, boards)
        sections.append(gather_section(suite, records, record or records.default))
    if not sections:
        raise UserError(f"{boards} holds no board; run `uebench run` first")
    words = tomllib.loads(_source("glossary.toml"))
    environment = Environment(
        loader=LOADER,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figures=figures, number=format_number, words=words, policy=POLICY, mark=Markup(MARK))
    environment.globals.update(reading=_rich(READING_TEXT), on_targets=TARGETS_TEXT, on_recipes=RECIPES_TEXT)
    environment.globals.update(on_next_breaker=_rich(NEXT_BREAKER_TEXT.partition(".** ")[2]))
    documents = render_documents(boards)
    environment.globals.update(documents=documents, rich=_rich, repository=repository, meanings_of=_column_meanings())
    made = {name: (STATIC / name).read_bytes() for name in ("style.css", "board.js")}

    def page(name: str, template: str, **values: Any) -> None:
        made[name] = environment.get_template(template).render(home="../" * name.count("/"), **values).encode()

    page("index.html", "index.html", sections=sorted(sections, key=lambda section: section.position))
    for name, document in documents.items():
        page(f"docs/{name}.html", "document.html", document=document)
    for section in sections:
        made[f"{section.place}/results.jsonl"] = section.record
        if section.heat_map:
            made[f"{section.place}/{HEAT_MAP_FILE}"] = section.heat_map
        made |= {f"{section.place}/{name}": content for name, content in section.downloads.items()}
        made |= {f"{section.place}/{GALLERY}/{path.name}": path.read_bytes() for path in section.pictures}
        entries = {row["parameters"]: row for group in section.groups for row in group.noises}
        page(f"{section.place}/index.html", "suite.html", section=section)
        for row in entries.values():
            drawn = picture_name(row["noise"])
            picture = drawn if drawn in {path.name for path in section.pictures} else ""
            known = {"origin": noise_origin(section, row), "parts": noise_parts(section, row)}
            page(row["page"], "noise.html", section=section, entry=row, picture=picture, **known)
    made["data.json"] = _data(sections, words)
    return made


def project_repository() -> str:
    """Return the address of the source code by the metadata of the installed package, or an empty text."""
    with suppress(PackageNotFoundError):
        for line in metadata("uebench").get_all("Project-URL") or ():
            label, _, address = line.partition(", ")
            if label.lower() in ("repository", "source", "source code") and ADDRESS.fullmatch(address):
                return str(address)
    return ""


def _column_meanings() -> dict[str, dict[str, str]]:
    """Return what the columns of noises and of breakers mean, by key, and by the header that tables show."""
    meanings = {}
    for kind, columns in (("noises", NOISE_COLUMNS), ("breakers", BREAKER_COLUMNS)):
        by_key = {column.key: column.meaning for column in columns}
        meanings[kind] = by_key | {column.header: column.meaning for column in columns if column.header}
    return meanings


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
    fields = dict(words["fields"])
    for kind, columns in (("noises", NOISE_COLUMNS), ("breakers", BREAKER_COLUMNS)):
        fields |= {f"{kind}.{column.key}": column.meaning for column in columns}
    table = {"schema": 2, "fields": fields, "flags": words["flags"], "suites": suites}
    return (json.dumps(table, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def _source(name: str) -> str:
    return LOADER.get_source(Environment(), name)[0]


def _rich(text: str) -> Markup:
    """Return a text with markdown's stars and code as HTML."""
    text = re.sub(r"(\*+)(.+?)\1", r"<strong>\2</strong>", str(escape(text)), flags=re.DOTALL)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", text))
