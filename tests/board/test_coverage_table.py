"""The documented table of how often rank sets hold the truth is the one that its command makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.board.rank_coverage import BLOCK, coverage_table, insert_coverage, simulate
from tests.conftest import ROOT

DOCUMENT = ROOT / "uebench" / "site" / "docs" / "boards.md"


def documented_table() -> str:
    """Return the table in the documentation."""
    block = BLOCK.search(DOCUMENT.read_text("utf-8"))
    assert block
    return block[2]


def table_rows(table: str) -> list[list[str]]:
    """Return the cells of each line of a table in markdown."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_it_has_the_shape_and_the_labels_that_the_command_prints() -> None:
    printed = coverage_table(boards=1)
    documented, expected = table_rows(documented_table()), table_rows(printed)
    assert documented[:2] == expected[:2]
    assert [row[:2] for row in documented] == [row[:2] for row in expected]
    assert {len(row) for row in documented} == {len(expected[0])}
    numbers = re.compile(r"[\d.]+ boards each|[\d.]+ points")
    assert numbers.sub("", documented_table().strip().splitlines()[-1]) == numbers.sub("", printed.splitlines()[-1])


def test_a_documented_row_is_what_the_simulation_gives() -> None:
    (row,) = (row for row in table_rows(documented_table()) if row[:2] == ["half of them equal", "unequal"])
    boards = int(re.findall(r"(\d+) boards each", documented_table())[0])
    covered, width = simulate(*row[:2], 3, min(boards, 100), shared=0.5)
    assert row[2] == f"{100 * covered:.1f} %"
    assert row[3] == f"{width:.1f}"


def test_every_documented_share_is_the_nominal_one_within_three_standard_errors() -> None:
    error = float(re.findall(r"standard error of ([\d.]+) points", documented_table())[0])
    shares = [float(cell.removesuffix(" %")) for row in table_rows(documented_table()) for cell in row if "%" in cell]
    assert len(shares) == 48
    assert min(shares) >= 95 - 3 * error


def test_a_document_without_the_block_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- rank coverage -->\nold\n<!-- end -->\nafter\n")
    insert_coverage(document, "new")
    assert document.read_text() == "before\n<!-- rank coverage -->\nnew\n<!-- end -->\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="has no block"):
        insert_coverage(document, "new")
