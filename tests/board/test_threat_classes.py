"""The threat class of a breaker: refused where it is wrong, a column of the board, and a limit of what counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from tests.board.test_tables import DEMO, board, complete_results, make_result
from uebench import Breaker, UserError
from uebench.board.columns import breaker_frame
from uebench.board.groups import limit_threat
from uebench.cli.main import main
from uebench.components.chain_classes import chain_threat, chain_year
from uebench.components.interfaces import THREATS
from uebench.components.kinds import find_flaw
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.storage.results_file import write_results


@pytest.fixture
def stronger_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `jpeg` need clean images, for a test."""
    monkeypatch.setattr(registry().find("breaker", "jpeg").cls, "threat", "clean extra data")


class Purifier(Breaker):
    """Needs clean images, and has no parameters."""

    name = "purifier"
    threat = "clean extra data"


def breaker_text(text: str) -> str:
    """Return the canonical text of a breaker."""
    return canonical_text(registry().build("breaker", text))


def results_with_jpeg() -> list[Any]:
    """Return the results of a complete board, and of a breaker that recovers more than the required ones."""
    extra = [make_result(noise, "jpeg", seed, 0.93) for noise in ("none", "em", "rem", "sem") for seed in range(3)]
    return [*complete_results(), *extra]


def test_a_class_is_no_parameter_and_not_in_the_canonical_text() -> None:
    assert find_flaw(Purifier, "breaker") == ""
    assert canonical_text(Purifier()) == "purifier@1"


def test_an_unknown_class_is_refused_with_the_nearest_one() -> None:
    misspelt = type("Misspelt", (Breaker,), {"name": "misspelt", "threat": "clean data"})
    assert find_flaw(misspelt, "breaker") == ("Misspelt.threat cannot be 'clean data'; did you mean clean extra data?")
    annotated = type("Typed", (Breaker,), {"name": "typed", "threat": THREATS[0], "__annotations__": {"threat": str}})
    assert find_flaw(annotated, "breaker").startswith("Typed.threat must not be a parameter")


@pytest.mark.usefixtures("stronger_jpeg")
def test_a_chain_has_the_strongest_class_of_its_members_and_of_those_it_chooses_among() -> None:
    assert chain_threat(breaker_text("grayscale")) == "no extra data"
    assert chain_threat(breaker_text("jpeg")) == "clean extra data"
    assert chain_threat(f"{breaker_text('jpeg')}+{breaker_text('adv-linf')}") == "clean extra data"
    assert chain_threat(breaker_text("best-of:of=none/(jpeg:quality=30)")) == "clean extra data"
    assert chain_threat(breaker_text("best-of:of=none/grayscale")) == "no extra data"
    assert chain_threat(breaker_text("jpeg").replace("@", "@9")) == "clean extra data", "the version does not matter"


@pytest.mark.parametrize(
    "text", ["elsewhere@1", "grayscale@1+elsewhere@1:a=2", "grayscale@1:(", "best-of@1:of=elsewhere@1"]
)
def test_a_breaker_that_is_not_installed_has_no_known_class_or_year(text: str) -> None:
    assert chain_threat(text) is None
    assert chain_year(text) is None


def test_the_year_of_a_chain_is_that_of_its_newest_paper() -> None:
    assert chain_year(breaker_text("adv-linf")) == 2018
    assert chain_year(f"{breaker_text('jpeg')}+{breaker_text('adv-linf')}") == 2023
    assert chain_year(breaker_text("adv-l1")) == 2022, "the first year of a paper that names two"
    assert chain_year(breaker_text("none")) is None


@pytest.mark.usefixtures("stronger_jpeg")
def test_class_and_year_are_columns_of_breakers() -> None:
    unknown = structs.replace(make_result("em", "none", 0, 0.5), key="x", breaker="elsewhere")
    unknown.parameters["breaker"] = "elsewhere@1"
    table = breaker_frame(board([*results_with_jpeg(), unknown])).set_index("breaker")
    weakest = "no extra data"
    known = dict(table["threat"].dropna())
    assert known == {"none": weakest, "adv-linf": weakest, "jpeg": "clean extra data"}, "elsewhere is unknown"
    assert table.loc["adv-linf", "year"] == 2018


@pytest.mark.usefixtures("stronger_jpeg")
def test_a_limit_leaves_out_stronger_breakers() -> None:
    suite, kept = limit_threat(DEMO, results_with_jpeg(), "outside weights")
    (all_breakers, limited) = board(results_with_jpeg()), board(kept, suite)
    assert {row.best_known_breaker for row in all_breakers.rows_with_rank} == {"jpeg"}
    assert {row.best_known_breaker for row in limited.rows_with_rank} == {"adv-linf"}
    assert limit_threat(DEMO, results_with_jpeg(), "clean extra data")[1] == results_with_jpeg()


@pytest.mark.usefixtures("stronger_jpeg")
def test_a_stronger_breaker_is_not_required_under_a_limit() -> None:
    required = demo_requiring("none", "jpeg")
    suite, kept = limit_threat(required, results_with_jpeg(), "no extra data")
    assert suite.required_breakers == ["none"]
    assert {row.status for row in board(kept, suite).rows_with_rank} == {"ranked"}
    with pytest.raises(UserError, match="no required breaker of threat class 'no extra data' or weaker"):
        limit_threat(demo_requiring("jpeg"), results_with_jpeg(), "no extra data")


def demo_requiring(*required: str) -> Any:
    """Return the demo suite with other required breakers."""
    return replace(DEMO, required_breakers=list(required))


@pytest.mark.usefixtures("stronger_jpeg")
def test_the_command_prints_a_limited_board_and_writes_nothing(tmp_path: Path) -> None:
    results = results_with_jpeg()
    results += [
        make_result(noise, breaker, seed, 0.5)
        for noise in ("none", "em", "rem", "sem")
        for breaker in ("grayscale", "randaugment", "ueraser")
        for seed in range(3)
    ]
    write_results(tmp_path / "demo" / "results.jsonl", {result.key: result for result in results})
    words = ["rank", "demo", "--boards", str(tmp_path), "--threat", "no extra data"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    (printed,) = json.loads(done.stdout)["boards"]
    assert printed["title"].endswith(", breakers of class no extra data")
    assert "jpeg" not in {row["breaker"] for row in printed["breakers"]}
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["results.jsonl"]
    refused = CliRunner().invoke(main, [*words, "--into", str(tmp_path / "page.md")])
    assert refused.exit_code == 2
    assert "--threat only prints a board" in refused.output


def test_plugins_shows_the_class_of_a_breaker_only() -> None:
    assert "Threat class: no extra data" in CliRunner().invoke(main, ["plugins", "jpeg"]).output
    assert "Threat class" not in CliRunner().invoke(main, ["plugins", "rem"]).output
    (document,) = json.loads(CliRunner().invoke(main, ["plugins", "jpeg", "--json"]).output)["components"]
    assert document["threat"] == "no extra data"
