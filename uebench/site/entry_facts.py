"""What the page of a noise says of where it comes from: description, paper, version, and when it was verified."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uebench.board.records import RecordChoice
from uebench.components.registry import registry
from uebench.storage.result import Result

ADDRESS = re.compile(r"https?://[!-~]*[A-Za-z0-9/_-]")
"""A web address in a text, without the punctuation after it."""
ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
"""The number of a paper in arXiv."""


@dataclass(frozen=True)
class Origin:
    """Where a noise comes from: texts for its page, empty where they are unknown.

    `description` and `paper` are those of the installed component, `paper_link` is an http or https address.
    `version` is the one that the results were made with, `installed` the one of the installed component, and
    `distributions` are the packages, with versions, that took part in making the results.
    """

    description: str
    paper: str
    paper_link: str
    version: str
    installed: str
    distributions: Sequence[str]


def find_origin(parameters: str, cells: Sequence[Result], history: Sequence[Mapping[str, Any]]) -> Origin:
    """Return the origin of a noise, given by its canonical text, from its results and the decisions about it.

    A submitter's address of the paper, in the history, comes before the one in the component.
    """
    name, _, version = parameters.partition(":")[0].partition("@")
    entry = registry().entries["noise"].get(name)
    description = inspect.cleandoc(entry.cls.__doc__ or "").partition("\n\n")[0] if entry else ""
    paper = entry.cls.paper if entry else ""
    stated = [line["paper"] for line in _entry_decisions(parameters, history) if ADDRESS.fullmatch(line["paper"])]
    used = {f"{plugin} {release}" for cell in cells for plugin, release in cell.made_with.get("plugins", {}).items()}
    return Origin(
        description=" ".join(description.split()),
        paper=paper,
        paper_link=stated[-1] if stated else find_link(paper),
        version=version,
        installed=str(entry.cls.version) if entry else "",
        distributions=sorted(used),
    )


def find_link(paper: str) -> str:
    """Return the address in the text about a paper: one that is written out, or the one of its arXiv number."""
    if address := ADDRESS.search(paper):
        return address[0]
    number = ARXIV.search(paper)
    return f"https://arxiv.org/abs/{number[1]}" if number else ""


def last_verification(
    parameters: str, cells: Sequence[Result], history: Sequence[Mapping[str, Any]], record: RecordChoice
) -> str:
    """Return when and how the results of a noise on one board were last verified, as a text.

    Without a decision about the noise on this data set, whoever ran the cells vouches for them: the maintainers for
    published results, the reader for their own.
    """
    datasets = {cell.parameters["dataset"] for cell in cells}
    decisions = [line for line in _entry_decisions(parameters, history) if line["dataset"] in datasets]
    if record != "own" and decisions:
        return f"{decisions[-1]['date'][:10]}, {decisions[-1]['badge']}"
    runner = {"published": "run by the maintainers", "own": "run by you", "both": "run by you or the maintainers"}
    return f"{max(cell.finished for cell in cells)[:10]}, {runner[record]}"


def _entry_decisions(parameters: str, history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the decisions that accepted a noise itself, not a breaker against it, oldest first."""
    return [
        line for line in history if line["event"] == "accepted" and not line["breaker"] and parameters in line["noises"]
    ]
