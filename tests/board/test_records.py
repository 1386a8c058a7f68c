"""The user's own record beside the published record."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from msgspec import structs

from tests.conftest import ROOT
from tests.submission.factory import SUITE, put_on_board, results
from uebench.board.ranking import rank_results
from uebench.board.records import compare_records, find_boards, mark_records, own_folder, read_records
from uebench.storage.result import Result
from uebench.storage.results_file import write_results


@pytest.fixture(scope="module")
def published() -> list[Result]:
    return results("em", "rem")


def test_the_own_result_is_used_if_both_records_have_a_cell(published: list[Result], tmp_path: Path) -> None:
    put_on_board(tmp_path / "boards", published)
    own = {result.key: result for result in results("em", right={"em": 300})}
    write_results(own_folder(tmp_path / "store", SUITE.name) / "results.jsonl", own)
    records = read_records(SUITE.name, tmp_path / "store", tmp_path / "boards")
    both = records.choose("both")
    assert set(both) == {result.key for result in published}
    assert {both[key].test_accuracy for key in own} == {result.test_accuracy for result in own.values()}
    assert records.choose("own") == own
    assert records.choose("published") == {result.key: result for result in published}


def test_a_missing_record_is_empty(tmp_path: Path) -> None:
    records = read_records(SUITE.name, tmp_path / "store", tmp_path / "boards")
    assert not records.choose("both")


def test_a_row_says_whose_results_it_holds(published: list[Result]) -> None:
    own = {
        result.key: result
        for result in published
        if result.noise == "rem" or (result.noise, result.seed) == ("none", 0)
    }
    (board,) = mark_records(rank_results(SUITE, published), published, own)
    assert {row.noise: row.record for row in board.noises} == {"none": "both", "em": "published", "rem": "own"}


@pytest.mark.parametrize(("images", "agree"), [(0, True), (1, True), (700, False)])
def test_cells_agree_within_the_spread_between_two_runs(published: list[Result], images: int, agree: bool) -> None:
    plain = [result for result in published if (result.noise, result.breaker, result.seed) == ("em", "none", 0)]
    ours = [
        structs.replace(result, test_accuracy=round(1400 * result.test_accuracy + images) / 1400) for result in plain
    ]
    (agreement,) = compare_records(ours, {result.key: result for result in published})
    assert agreement.holds == agree
    assert agreement.cell == "em / none on smallcnn, seed 0"


def test_cells_that_are_not_published_are_not_compared(published: list[Result]) -> None:
    assert not compare_records(published, {})


def test_a_damaged_published_number_is_a_difference_but_no_error(published: list[Result]) -> None:
    damaged = {result.key: structs.replace(result, test_accuracy=0.123456789) for result in published}
    assert not any(agreement.holds for agreement in compare_records(published, damaged) if agreement.found > 0.4)


def test_boards_here_come_before_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_boards() == ROOT / "leaderboards"
    (tmp_path / "leaderboards").mkdir()
    assert find_boards() == Path("leaderboards")


def test_every_published_record_comes_with_the_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    boards = sorted(path.parent.name for path in (ROOT / "leaderboards").glob("*/results.jsonl"))
    assert listed == {f"share/uebench/leaderboards/{name}": [f"leaderboards/{name}/*.jsonl"] for name in boards}
