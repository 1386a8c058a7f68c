"""What a board's page offers for programs, where the pages lead, and what their columns mean."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.board.test_tables import DEMO
from tests.conftest import ROOT
from tests.site.test_build import Page, boards, two_breakers, varied
from uebench import UserError
from uebench.board.columns import board_document
from uebench.board.publish import GENERATED_FILES, publish_board
from uebench.board.ranking import rank_results
from uebench.cli.main import main
from uebench.site.build import build_site

__all__ = ["two_breakers"]  # a fixture, used by being here


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build_site(boards(tmp_path_factory.mktemp("boards"), varied()))


def test_downloads_are_the_boards_own_files(site: dict[str, bytes], tmp_path: Path) -> None:
    publish_board(tmp_path, DEMO, rank_results(DEMO, varied()))
    tables = [name for name in GENERATED_FILES if name.endswith((".csv", ".tex"))]
    assert len(tables) == 3
    for name in tables:
        assert site[f"demo/{name}"] == (tmp_path / name).read_bytes(), name
    links = [
        attributes["href"]
        for tag, attributes in Page(site["demo/index.html"]).elements
        if tag == "a" and "download" in attributes
    ]
    assert set(links) == {*tables, "board.json", "results.jsonl"}


def test_downloads_parse_and_hold_the_boards_numbers(site: dict[str, bytes]) -> None:
    ranked = rank_results(DEMO, varied())
    document = json.loads(site["demo/board.json"])
    assert document == {"suite": "demo", "boards": json.loads(json.dumps([board_document(board) for board in ranked]))}
    rows = list(csv.DictReader(io.StringIO(site["demo/noises.csv"].decode())))
    expected = [(board.title, row.noise, row.residual_protection) for board in ranked for row in board.noises]
    assert [(row["board"], row["noise"]) for row in rows] == [line[:2] for line in expected]
    for row, (_, _, residual) in zip(rows, expected, strict=True):
        assert (float(row["residual_protection"]) if row["residual_protection"] else None) == (
            None if residual is None else pytest.approx(residual, abs=1e-6)
        )
    assert site["demo/noises.tex"].count(rb"\begin{tabular}") == len(ranked)


def test_the_json_is_what_the_command_prints(tmp_path: Path) -> None:
    folder = boards(tmp_path, varied())
    printed = CliRunner().invoke(main, ["rank", "demo", "--json", "--boards", str(folder)], catch_exceptions=False)
    made = CliRunner().invoke(main, ["site", "--boards", str(folder), "--into", str(tmp_path / "site")])
    assert made.exit_code == printed.exit_code == 0, made.output
    shown = json.loads((tmp_path / "site" / "demo" / "board.json").read_text())
    told = json.loads(printed.output)
    assert shown["boards"][0].keys() == told["boards"][0].keys()
    assert [board["title"] for board in shown["boards"]] == [board["title"] for board in told["boards"]]
    assert shown.keys() == told.keys()


def test_every_page_leads_to_the_submission_guide_and_to_a_repository_that_is_known(tmp_path: Path) -> None:
    folder, address = boards(tmp_path, varied()), "https://example.org/uebench"
    for repository in ("", address):
        for name, content in build_site(folder, repository=repository).items():
            if name.endswith(".html"):
                links = Page(content).values("href")
                assert (address in links) == bool(repository), name
                assert [link for link in links if link.endswith("handing-in.html")], name


@pytest.mark.parametrize("address", ["javascript:alert(1)", "example.org", "https://a b"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    command = ["site", "--boards", str(boards(tmp_path, varied())), "--into", str(tmp_path / "site")]
    with pytest.raises(UserError, match="must be an http or https address"):
        build_site(tmp_path, repository=address)
    done = CliRunner().invoke(main, [*command, "--repository", address])
    assert done.exit_code != 0
    assert not (tmp_path / "site").exists()


def test_signs_in_an_address_stay_within_it(tmp_path: Path) -> None:
    address = 'https://a"onclick="b'
    content = build_site(boards(tmp_path, varied()), repository=address)["index.html"]
    assert address in Page(content).values("href")
    assert not [attributes for _, attributes in Page(content).elements if "onclick" in attributes]


def test_every_column_says_what_it_means(site: dict[str, bytes]) -> None:
    for name, content in site.items():
        if not name.endswith(".html") or name.startswith("docs/"):
            continue
        for table in re.findall(r'<table class="sortable.*?</thead>', content.decode(), re.DOTALL):
            heads = [attributes for tag, attributes in Page(f"{table}</table>".encode()).elements if tag == "th"]
            lacking = [head for head in heads if len(head.get("title", "")) < 8 and head.get("class") != "text"]
            assert heads
            assert not lacking, (name, lacking)
    board = Page(site["demo/index.html"])
    meaning = "plain clean accuracy minus the highest accuracy under a required breaker"
    assert meaning in board.values("title")
    assert meaning in board.text, "for those who cannot point"


def test_the_first_page_answers_by_every_breaker() -> None:
    made = build_site(ROOT / "leaderboards", ["cifar10-small"])
    (group,) = json.loads(made["data.json"])["suites"]["cifar10-small"]["boards"]
    rows = [row for row in group["noises"] if row["rank"] is not None]
    best = max(rows, key=lambda row: row["residual_best_known"])
    least = min(rows, key=lambda row: row["residual_best_known"])
    page = Page(made["index.html"])
    words = " ".join(page.text.split())
    assert f"{best['noise']} protects best" in words
    for row, sentence in ((best, "stays {} points ({}, {} seed"), (least, "protects least: {} points ({}, {} seed")):
        breaker = row["best_known_breaker"]
        told = f"{100 * row['residual_best_known']:.1f}", breaker, row["accuracies"][breaker]["seeds"]
        assert sentence.format(*told) in words
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert pictures == [f"cifar10-small/gallery/{best['noise']}.png", "cifar10-small/heat_map.svg"]
    assert len([tag for tag, attributes in page.elements if attributes.get("class") == "own"]) == len(rows) + 1
