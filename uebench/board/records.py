"""The two records of a suite: the user's own results on this machine, and the published ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import pandas as pd
from msgspec import structs

from uebench.board.agreement import Agreement, count_test_images, run_deviation
from uebench.board.groups import comparable_groups
from uebench.board.ranking import Board
from uebench.storage.history import Rulings, current_rulings, read_history
from uebench.storage.result import Result
from uebench.storage.results_file import RESULTS_FILE, read_results

RecordChoice = Literal["published", "own", "both"]


@dataclass(frozen=True)
class SuiteRecords:
    """The results of a suite by key: the user's own, and the published ones with the maintainers' rulings.

    `own_folder` is in the store, `published_folder` in a folder of boards.
    """

    own_folder: Path
    published_folder: Path
    own: Mapping[str, Result]
    published: Mapping[str, Result]
    rulings: Rulings

    @property
    def default(self) -> RecordChoice:
        """The record shown by default: the published one, or the user's own if nothing is published."""
        return "own" if self.own and not self.published else "published"

    def choose(self, choice: RecordChoice) -> dict[str, Result]:
        """Return the results of one record or of both; if both have a cell, the user's own result is used."""
        published = {} if choice == "own" else self.published
        return {**published, **({} if choice == "published" else self.own)}


def bundled_boards() -> Path | None:
    """Return the folder of published boards that came with the package: in a source tree, or as files of a wheel."""
    in_source_tree = Path(__file__).parents[2] / "leaderboards"
    if (in_source_tree.parent / "pyproject.toml").exists():
        return in_source_tree if in_source_tree.is_dir() else None
    with suppress(PackageNotFoundError):
        for file in distribution("uebench").files or ():
            if file.parts[-3:-2] == ("leaderboards",) and file.name == RESULTS_FILE:
                return Path(str(file.locate())).parents[1].resolve()
    return None


def find_boards() -> Path:
    """Return the folder of published boards: `leaderboards` in the working directory, else that of the package."""
    in_working_directory = Path("leaderboards")
    return in_working_directory if in_working_directory.is_dir() else bundled_boards() or in_working_directory


def own_folder(store: Path, suite: str) -> Path:
    """Return the folder in a store with the user's own board of a suite."""
    return store / "boards" / suite


def read_records(suite: str, store: Path, boards: Path) -> SuiteRecords:
    """Return both records of a suite, given by its name; a record that does not exist is empty."""
    own, published = own_folder(store, suite), boards / suite
    return SuiteRecords(
        own_folder=own,
        published_folder=published,
        own=read_results(own / RESULTS_FILE) if store.is_dir() else {},
        published=read_results(published / RESULTS_FILE),
        rulings=current_rulings(read_history(published)),
    )


def compare_records(own: Iterable[Result], published: Mapping[str, Result]) -> list[Agreement]:
    """Compare the accuracies of the user's results with the published ones of the same cells.

    The standard deviation between two runs is that of `run_deviation`, from the seeds of the published cell. The number
    of test images follows from the user's accuracies, because a published record may be damaged.
    """
    pairs = [(result, published[result.key]) for result in own if result.key in published]
    seeds: defaultdict[str, list[float]] = defaultdict(list)
    for result in published.values():
        seeds[_cell_text(result)].append(result.test_accuracy)
    accuracies: defaultdict[str, list[float]] = defaultdict(list)
    for own_result, _ in pairs:
        accuracies[_dataset(own_result)].append(own_result.test_accuracy)
    images = {dataset: count_test_images(values) for dataset, values in accuracies.items()}
    return [
        Agreement(
            f"{own_result.noise} / {own_result.breaker} on {own_result.target}, seed {own_result.seed}",
            published_result.test_accuracy,
            own_result.test_accuracy,
            run_deviation(seeds[_cell_text(published_result)], images[_dataset(own_result)]),
        )
        for own_result, published_result in pairs
    ]


def mark_records(boards: Sequence[Board], results: Collection[Result], own: Mapping[str, Result]) -> list[Board]:
    """Return the boards of these results with rows that say whose results they have: own, published ones, or both."""
    marked = []
    for board, group in zip(boards, comparable_groups(results), strict=True):
        records: defaultdict[str, set[str]] = defaultdict(set)
        for result in group:
            records[result.parameters["noise"]].add("own" if result.key in own else "published")
        rows = [
            replace(row, record="both" if len(records[row.parameters]) > 1 else min(records[row.parameters]))
            for row in board.noises
        ]
        marked.append(replace(board, noises=rows))
    return marked


FRAME_COLUMNS = [
    *("suite", "dataset", "noise", "breaker", "target", "protected", "kind", "seed", "recipe"),
    *("test_accuracy", "train_accuracy", "best_test_accuracy", "noise_linf", "noise_l2", "psnr", "ssim"),
    *("noise_seconds", "train_seconds", "flags", "device", "finished", "key"),
]


def results_frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return results as a table with one row each, sorted by names and seed."""
    rows = [{**structs.asdict(result), "device": result.made_with["device"]} for result in results]
    frame = pd.DataFrame(rows, columns=FRAME_COLUMNS)
    return frame.sort_values(FRAME_COLUMNS[:9], ignore_index=True)


def _dataset(result: Result) -> str:
    return result.parameters["dataset"]


def _cell_text(result: Result) -> str:
    """Return a text that is the same for all seeds of a cell."""
    cell = {**result.parameters, "protected": str(result.protected), "kind": result.kind}
    return repr(sorted(cell.items()))
