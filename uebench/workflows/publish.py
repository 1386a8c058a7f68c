"""`uebench publish`: a maintainer adds the user's own results of a suite to the published record."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uebench.board.publish import GALLERY, picture_name, rebuild_board
from uebench.board.ranking import Board
from uebench.board.records import read_records
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.results_file import RESULTS_FILE, merge_results, write_results
from uebench.storage.store import Store


@dataclass(frozen=True)
class PublishReport:
    """What was added to the published record in `folder`, and the boards that follow.

    `conflicts` describes results that differ from published ones: these are kept, or with `replaced` were replaced.
    """

    folder: Path
    added: int
    conflicts: Sequence[str]
    replaced: bool
    boards: Sequence[Board]


def publish_results(
    suite_name: str, store: Store, boards: Path, noises: Sequence[str] = (), *, replace: bool = False
) -> PublishReport:
    """Add own results to a published record and rebuild its board; raises `UserError` where there are none.

    `noises` are labels or canonical texts, by default every noise; results of the clean reference go along. A published
    result with other numbers stays, unless `replace`.
    """
    suite = read_suite(suite_name)
    with store.lock(f"board-{suite.name}", wait=True):
        records = read_records(suite.name, store.root, boards)
        if not records.own:
            raise UserError(f"{records.own_folder} holds no results; run `uebench run {suite_name}` first")
        chosen = _choose(records.own, noises)
        merged, conflicts = merge_results(records.published, chosen.values())
        if replace:
            merged |= chosen
        write_results(records.published_folder / RESULTS_FILE, merged)
        _copy_pictures(records.own_folder, records.published_folder, {result.noise for result in chosen.values()})
        ranked = rebuild_board(records.published_folder, suite, merged)
    added = len(merged) - len(records.published)
    return PublishReport(records.published_folder, added, conflicts, replace, ranked)


def _choose(own: Mapping[str, Result], noises: Sequence[str]) -> dict[str, Result]:
    """Return the results of these noises and of the clean reference; raises `UserError` for a noise without results."""
    if not noises:
        return dict(own)
    recorded_names = {name for result in own.values() for name in (result.noise, result.parameters["noise"])}
    for name in noises:
        if name not in recorded_names:
            raise UserError(f"there are no results of noise {name!r}{nearest_match(name, recorded_names)}")
    names = {*noises, "none"}
    return {key: result for key, result in own.items() if names & {result.noise, result.parameters["noise"]}}


def _copy_pictures(own: Path, published: Path, noises: set[str]) -> None:
    """Copy the pictures of noises from one gallery to the other."""
    for name in map(picture_name, noises):
        if (own / GALLERY / name).exists():
            (published / GALLERY).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own / GALLERY / name, published / GALLERY / name)
