"""Where a noise comes from, and when it was verified, as its page says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.board.test_tables import complete_results, make_result, text
from tests.site.test_build import Page, boards, two_breakers
from uebench.components.registry import registry
from uebench.site.build import build_site
from uebench.site.entry_facts import find_link, find_origin, last_verification
from uebench.storage.history import append_decision

__all__ = ["two_breakers"]  # a fixture, used by being here


def decision(**other: Any) -> dict[str, Any]:
    """Return a line of a history: `em` was accepted on its data set."""
    line = {"event": "accepted", "dataset": "digits@1", "breaker": "", "noises": [text("noise", "em")], "paper": ""}
    return line | {"badge": "valid", "date": "2026-02-03T04:05:06+00:00"} | other


@pytest.mark.parametrize(
    ("paper", "link"),
    [
        ("A. Author, Title, ICLR 2022, arXiv 2203.14533: settings", "https://arxiv.org/abs/2203.14533"),
        ("Title (https://example.org/a-paper).", "https://example.org/a-paper"),
        ("Title, ICLR 2022", ""),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_a_paper_has_a_link_only_where_its_text_has_one(paper: str, link: str) -> None:
    assert find_link(paper) == link


def test_the_description_is_the_first_paragraph_of_the_installed_component() -> None:
    cells = [make_result("em", "none", 0, 0.1, made_with={"device": "x", "plugins": {"their-noises": "1.2"}})]
    origin = find_origin(text("noise", "em"), cells, [])
    documentation = " ".join((registry().find("noise", "em").cls.__doc__ or "").split())
    assert origin.description
    assert documentation.startswith(origin.description)
    assert origin.paper == registry().find("noise", "em").cls.paper
    assert (origin.version, origin.distributions) == (origin.installed, ["their-noises 1.2"])


def test_of_a_noise_that_is_not_installed_only_the_record_is_known() -> None:
    origin = find_origin("gone@7:radius=1", [make_result("em", "none", 0, 0.1)], [])
    assert (origin.description, origin.paper, origin.paper_link, origin.installed) == ("", "", "", "")
    assert (origin.version, origin.distributions) == ("7", [])


def test_the_link_of_a_submitter_comes_first_and_must_be_an_address() -> None:
    em = text("noise", "em")
    assert find_origin(em, [], [decision(paper="https://example.org/x")]).paper_link == "https://example.org/x"
    usual = find_origin(em, [], []).paper_link
    for line in (
        decision(paper="javascript:alert(1)"),
        decision(paper="https://example.org/x", breaker="jpeg@1"),
        decision(paper="https://example.org/x", noises=["rem@1"]),
    ):
        assert find_origin(em, [], [line]).paper_link == usual


def test_a_noise_was_verified_when_it_was_accepted_on_the_data_set_and_else_when_it_was_run() -> None:
    em, cells = text("noise", "em"), [make_result("em", "none", seed, 0.1) for seed in (0, 1)]
    lines = [decision(), decision(date="2026-03-04T00:00:00+00:00", badge="re-run")]
    assert last_verification(em, cells, lines, "published") == "2026-03-04, re-run"
    assert last_verification(em, cells, lines, "own") == "2026-01-01, run by you"
    for line in (decision(dataset="elsewhere@1"), decision(breaker="jpeg@1"), {"event": "withdrawn", "noise": em}):
        assert last_verification(em, cells, [line], "published") == "2026-01-01, run by the maintainers"


def test_pages_show_it(tmp_path: Path) -> None:
    folder = boards(tmp_path, complete_results()) / "demo"
    handed_in = {"bundle": "0", "dataset": "digits@1", "breaker": "", "submitter": "Ada", "rerun": None}
    paper = "https://example.org/a"
    append_decision(folder, "accepted", "2026-02-03", [], **handed_in, paper="", badge="re-run", noises=["other@1"])
    append_decision(
        folder, "accepted", "2026-02-04", [], **handed_in, paper=paper, badge="re-run", noises=[text("noise", "em")]
    )
    site = build_site(tmp_path)
    found = {
        noise: next(content.decode() for name, content in site.items() if name.startswith(f"demo/{noise}-"))
        for noise in ("em", "rem")
    }
    assert "<dt>last verified</dt><dd>2026-02-04, re-run</dd>" in found["em"]
    assert "<dt>last verified</dt><dd>2026-01-01, run by the maintainers</dd>" in found["rem"]
    described = " ".join(Page(found["rem"].encode()).text.split())
    assert find_origin(text("noise", "rem"), [], []).description in described
    links = [
        (tag, attributes["rel"], attributes["href"])
        for content in found.values()
        for tag, attributes in Page(content.encode()).elements
        if attributes.get("href", "").startswith("http")
    ]
    assert ("a", "external noreferrer", paper) in links
    assert {link[:2] for link in links} == {("a", "external noreferrer")}
