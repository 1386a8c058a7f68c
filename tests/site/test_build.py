"""The static site: whole pages, hostile texts shown as text, the board's numbers, colours that everybody can read."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from msgspec import structs

from tests.board.test_next_breaker import results_under_four_breakers
from tests.board.test_tables import DEMO, complete_results, make_result, text
from tests.conftest import ROOT
from uebench import UserError
from uebench.board import standings
from uebench.board.columns import breaker_frame, noise_frame
from uebench.board.groups import comparable_groups
from uebench.board.ranking import rank_results
from uebench.cli.main import main
from uebench.compute import train
from uebench.jobs import cell, protect
from uebench.planning.suite_file import read_suite
from uebench.site import build
from uebench.site.figures import Axis, breaker_sweeps, place_labels
from uebench.site.view_model import page_name
from uebench.storage.history import append_decision
from uebench.storage.result import CurvePoint, Result
from uebench.storage.results_file import read_results, write_results

VOID = {"meta", "link", "img", "input", "br", "wbr"}
HOSTILE = """x"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}&amp;\N{RIGHT-TO-LEFT OVERRIDE}"""
CSS = (ROOT / "uebench" / "site" / "static" / "style.css").read_text()


class Page(HTMLParser):
    """Reads a page, refuses elements that are not closed in order, and keeps elements and text."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(content.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), self.get_starttag_text()
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closed at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module", autouse=True)
def two_breakers() -> Iterator[None]:
    """Let the site require what the results made up here have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "read_suite", lambda name: DEMO if name == "demo" else read_suite(name))
        yield


def boards(folder: Path, results: list[Result], suite: str = "demo") -> Path:
    """Write a record, with a picture that has a name to be careful with, and return the folder of boards."""
    write_results(folder / suite / "results.jsonl", {one.key: one for one in results})
    for name in ("rem.png", 'a"b<i>#?.png'):
        (folder / suite / "gallery").mkdir(exist_ok=True)
        (folder / suite / "gallery" / name).write_bytes(b"picture")
    return folder


def varied() -> list[Result]:
    """Return results with everything that pages tell apart: three budgets, two boards, few seeds, missing cells."""
    curve = [CurvePoint(step, step / 20, 1 - step / 20) for step in (5, 10, 20)]
    results = [structs.replace(one, curve=curve) for one in complete_results()]
    results += [
        make_result("sc", breaker, seed, 0.9, noise_norm="l2") for breaker in ("none", "adv-linf") for seed in (0, 1)
    ]
    results += [
        make_result(noise, "adv-linf:radius=8/255", s, 0.7 + s / 50) for noise in ("none", "em") for s in range(3)
    ]
    results += [make_result("tap", "none", 0, 0.3, flags=["diverged"], peak_bytes=3 * 2**20)]
    return results + [
        make_result(one.noise, one.breaker, one.seed, 0.5, recipe="sgd@1:steps=9") for one in complete_results(1)
    ]


def spoilt() -> list[Result]:
    """Return results in which every text that people may choose is hostile."""
    texts = {"noise": HOSTILE, "breaker": f"b{HOSTILE}", "target": f"t{HOSTILE}", "key": f"k{HOSTILE}"}
    device = {"device": HOSTILE, "plugins": {HOSTILE: HOSTILE}, HOSTILE: {HOSTILE: HOSTILE}}
    extra = make_result("sem", "adv-linf:radius=8/255", 0, 0.5, flags=[HOSTILE], made_with=device, finished=HOSTILE)
    others = [
        structs.replace(one, noise="javascript:alert(1)") if one.noise == "rem" else one for one in complete_results()
    ]
    others = [structs.replace(one, noise=HOSTILE) if one.noise == "sem" else one for one in others]
    return [structs.replace(one, dataset=HOSTILE) for one in [structs.replace(extra, **texts), *others]]


@pytest.fixture(params=["varied", "spoilt"])
def made_site(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, bytes]:
    return build.build_site(boards(tmp_path, {"varied": varied, "spoilt": spoilt}[request.param]()))


def pages(site: dict[str, bytes]) -> Iterator[tuple[str, Page]]:
    yield from ((name, Page(content)) for name, content in site.items() if name.endswith(".html"))


def test_every_suite_and_every_noise_has_a_whole_page(made_site: dict[str, bytes]) -> None:
    found = dict(pages(made_site))
    noises = {"none", "em", "rem", "sem"} | ({"sc", "tap"} if any("sc-" in name for name in found) else set())
    assert len([name for name in found if not name.startswith("docs/")]) == 2 + len(noises)
    for name, page in found.items():
        assert page.elements[0][0] == "html", name
        ids = page.values("id")
        assert len(set(ids)) == len(ids), name
        assert [tag for tag, _ in page.elements].count("h1") == 1, name


def test_the_page_of_a_noise_says_what_a_breaker_chose_and_by_which_scores(tmp_path: Path) -> None:
    chosen = make_result("rem", "best-of", 0, 0.4, chosen="none", trials={"none": 0.991, "jpeg": 0.5})
    site = build.build_site(boards(tmp_path, [*complete_results(), chosen]))
    text = Page(next(content for name, content in site.items() if name.startswith("demo/rem-"))).text
    assert "chose none; held out: jpeg 50.0, none 99.1" in " ".join(text.split())
    assert "chose none (1)" in Page(site["demo/index.html"]).text
    other = Page(next(content for name, content in site.items() if name.startswith("demo/em-"))).text
    assert "held out" not in other


def test_links_lead_somewhere_within_the_site(made_site: dict[str, bytes]) -> None:
    for name, page in pages(made_site):
        outside = [attributes["href"] for _, attributes in page.elements if "external" in attributes.get("rel", "")]
        assert all(re.fullmatch(r"https?://[!-~]+", link) for link in outside), name
        assert set(outside) <= {attributes.get("href") for tag, attributes in page.elements if tag == "a"}
        for link in page.values("href") + page.values("src"):
            if link == "data:," or link in outside:
                continue
            parts = urlsplit(link)
            assert not parts.scheme, link
            assert not parts.netloc, link
            here = (Path("/") / name).parent / unquote(parts.path) if parts.path else Path("/") / name
            target = str(Path(*[part for part in _normal(here)]))
            assert target in made_site, f"{name} -> {link}"
            if parts.fragment:
                assert parts.fragment in Page(made_site[target]).values("id"), link


def _normal(path: Path) -> list[str]:
    kept: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            kept.pop()  # fails above the site
        else:
            kept.append(part)
    return kept


def test_hostile_texts_are_texts(tmp_path: Path) -> None:
    site = build.build_site(boards(tmp_path, spoilt()))
    for name in site:
        assert re.fullmatch(
            r"[a-z0-9/-]+\.(html|json|jsonl|csv|tex|css|js)|demo/gallery/.*|demo/heat_map\.svg", name
        ), name
    for name, page in pages(site):
        scripts = [attributes for tag, attributes in page.elements if tag == "script"]
        assert [one.keys() for one in scripts] == [{"src"}], name
        assert scripts[0]["src"].endswith("board.js")
        assert not [key for _, attributes in page.elements for key in attributes if key.startswith(("on", "style"))]
        assert not {"i", "style", "iframe", "base", "form", "object"} & {tag for tag, _ in page.elements}, name
        assert "default-src 'none'" in page.values("content")[1]
    entry = Page(next(content for name, content in site.items() if name.startswith("demo/sem-")))
    for prefix in ("", "b", "t", "k"):
        assert prefix + HOSTILE[:-1] + "\N{REPLACEMENT CHARACTER}" in entry.text
    assert HOSTILE[-1] not in entry.text, "what follows would read backwards"
    assert "has no explanation" in entry.text
    assert "No command here plans these cells" in entry.text
    assert "javascript:alert(1)" in Page(site["demo/index.html"]).text


def test_names_of_pages_are_safe_and_differ_where_the_noise_does() -> None:
    names = [
        ("rem", "rem@1"),
        ("rem", "rem@2"),
        ("REM", "c"),
        ("../../etc", "d"),
        ("\udc80", "e"),
        ("", "f"),
        ("a" * 999, "g"),
    ]
    found = [page_name(*one) for one in names]
    assert len({name.lower() for name in found}) == len(found)
    for name in found:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert len(name) < 60


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = boards(tmp_path / "a", varied()), boards(tmp_path / "b", varied())
    path = other / "demo" / "results.jsonl"
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    first, second = build.build_site(one), build.build_site(other)
    del first["demo/results.jsonl"], second["demo/results.jsonl"]  # copied as it is
    assert first == second


def test_rows_stand_in_the_order_of_the_ranks_without_a_script(tmp_path: Path) -> None:
    page = Page(build.build_site(boards(tmp_path, varied()))["demo/index.html"])
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-name" in attributes]
    names = [row["data-name"] for row in rows]
    board = rank_results(DEMO, varied())[0]
    assert names[: len(board.noises)] == [row.noise for row in board.noises]
    assert {row["data-status"] for row in rows} == {"reference", "ranked", "provisional", "unranked"}
    assert {row["data-budget"] for row in rows} >= {"L2", "L-inf 32/255"}
    assert "unranked, lacks tap / adv-linf / smallcnn" in " ".join(page.text.split())
    assert "3 MiB" in page.text


def test_what_maintainers_decided_stands_in_the_row_and_on_the_page(tmp_path: Path) -> None:
    folder, em, rem = boards(tmp_path, complete_results()) / "demo", text("noise", "em"), text("noise", "rem")
    handed_in = {"bundle": "0", "dataset": "digits@1", "breaker": "", "submitter": "Ada", "paper": "", "rerun": None}
    append_decision(folder, "accepted", "2026-01-01", [], **handed_in, noises=[em], badge="valid")
    append_decision(folder, "withdrawn", "2026-01-02", [], noise=rem, reason="made from <b>test</b> images")
    site = build.build_site(tmp_path)
    told = {"em": "valid", "rem": "withdrawn: made from <b>test</b> images"}
    for noise, remark in told.items():
        (row, *_) = re.findall(rf'<tr data-name="{noise}".*?</tr>', site["demo/index.html"].decode(), re.DOTALL)
        assert " ".join(Page(row.encode()).text.split()).endswith(remark)
        (page,) = (page for name, page in pages(site) if name.startswith(f"demo/{noise}-"))
        assert remark.removeprefix("withdrawn: ") in page.text


def test_the_page_of_a_noise_has_the_decisions_about_it_with_the_values_before_and_after(tmp_path: Path) -> None:
    (group, *_), (board, *_) = comparable_groups(complete_results()), rank_results(DEMO, complete_results())
    em, rem, breaker, data = text("noise", "em"), text("noise", "rem"), text("breaker", "adv-linf"), group[0].parameters
    old, new = (
        {"status": "ranked", "residual_protection": left, "worst_breaker": worst}
        for left, worst in ((0.25, "none"), (0.125, "<i>jpeg</i>"))
    )
    folder = boards(tmp_path, complete_results()) / "demo"
    change = {"board": board.title, "noise": em, "old": old, "new": new}
    handed_in = {"bundle": "0", "paper": "", "rerun": None, "badge": "valid", "submitter": "Ada <b>"}
    against = {**handed_in, "breaker": breaker, "noises": [em]}
    append_decision(folder, "accepted", "2026-01-01", [change], dataset=data["dataset"], **against)
    append_decision(folder, "accepted", "2026-01-02", [], dataset="elsewhere@1", **against)
    append_decision(folder, "withdrawn", "2026-01-03", [{**change, "old": None}], noise=rem, reason="an error")
    site, after = build.build_site(tmp_path), "ranked, 12.5 (<i>jpeg</i>)"

    def told(noise: str) -> list[list[str]]:
        (page,) = (content.decode() for name, content in site.items() if name.startswith(f"demo/{noise}-"))
        part = page.partition("<h3>Decisions</h3>")[2].partition("<h3>Run it again</h3>")[0]
        rows = re.findall(r"<tr>.*?</tr>", part, re.DOTALL)[1:]
        return [
            [" ".join(Page(cell.encode()).text.split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
            for row in rows
        ]

    assert told("em") == [
        ["2026-01-01", "breaker adv-linf accepted against it, valid; Ada <b>", "ranked, 25.0 (none)", after],
        ["2026-01-03", "another entry withdrawn", "–", after],
    ]
    assert told("rem") == [["2026-01-03", "withdrawn: an error", "–", "–"]]
    assert told("sem") == []


PLACES = {
    "accuracy": ("accuracies", "mean"),
    "deviation": ("accuracies", "deviation"),
    "target": ("targets", "mean"),
    "target-deviation": ("targets", "deviation"),
}
"""Where `data.json` has a column of a board: by what it begins with."""


def test_data_for_programs_are_the_boards_numbers(tmp_path: Path) -> None:
    content = build.build_site(boards(tmp_path, varied()))["data.json"].decode()
    assert "NaN" not in content
    data = json.loads(content)
    found = data["suites"]["demo"]["boards"]
    expected = rank_results(DEMO, varied())
    assert [one["title"] for one in found] == [one.title for one in expected]
    for one, board in zip(found, expected, strict=True):
        for kind, table in (("noises", noise_frame(board)), ("breakers", breaker_frame(board))):
            assert len(one[kind]) == len(table)
            for row, (_, truth) in zip(one[kind], table.iterrows(), strict=True):
                for name, value in truth.items():
                    shown = row.get(name)
                    part, _, of = str(name).partition(" ")
                    if of and part in PLACES:
                        group, statistic = PLACES[part]
                        shown = row[group].get(of, {"mean": None, "deviation": None})[statistic]
                    if name == "flags":
                        assert ", ".join(shown) == value
                    elif pd.isna(value):
                        assert shown is None, name
                    else:
                        assert shown == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6)), name
        fields = {f"{kind}.{name}" for kind in ("noises", "breakers") for row in one[kind] for name in row}
        assert fields <= set(data["fields"]), fields - set(data["fields"])
    documented = {name for name in data["fields"] if "." in name} - {"boards.title"}
    assert documented == {f"{kind}.{name}" for kind in ("noises", "breakers") for name in found[0][kind][0]}


def test_a_board_with_enough_breakers_says_how_much_their_list_decides(tmp_path: Path) -> None:
    name = "demo/index.html"
    few, enough = tmp_path / "few", tmp_path / "enough"
    assert "The next breaker" not in Page(build.build_site(boards(few, complete_results()))[name]).text
    text = Page(build.build_site(boards(enough, results_under_four_breakers()))[name]).text
    assert "The next breaker" in text
    assert "4 breakers were run against every noise, too few for a bound" in text


def test_the_page_of_a_noise_has_its_best_known_residual_by_year(tmp_path: Path) -> None:
    site = build.build_site(boards(tmp_path, results_under_four_breakers()))
    (name,) = (name for name in site if name.startswith("demo/rem-") and name.endswith(".html"))
    section = Page(site[name]).text.partition("Best known residual by year")[2].partition("Run it again")[0]
    assert "".join(section.split()).endswith("against–78.0none201848.0adv-linf202318.0jpeg")
    (reference,) = (name for name in site if name.startswith("demo/none-") and name.endswith(".html"))
    assert "residual by year" not in Page(site[reference]).text


def test_every_flag_is_explained(tmp_path: Path) -> None:
    """Flags are found where they are raised: in lines that speak of flags, and in the function that yields them."""
    sources = [inspect.getsource(module) for module in (train, standings, protect)]
    raised = {name for source in sources for name in re.findall(r'flags\b.*?"([a-z]+(?:-[a-z]+)*)"', source)}
    raised |= set(re.findall(r'yield "([a-z-]+)"', inspect.getsource(cell._flags)))
    assert {"diverged", "constant-class", "surrogate-equals-target", "clean-below-protected"} <= raised
    explained = json.loads(build.build_site(boards(tmp_path, complete_results()))["data.json"])["flags"]
    assert set(explained) == raised


def test_the_heat_map_says_what_the_cells_are(tmp_path: Path) -> None:
    html = build.build_site(boards(tmp_path, varied()))["demo/index.html"].decode()
    table = re.findall(r'<table class="sortable heat">.*?</table>', html, re.DOTALL)[0]
    cells = re.findall(r'<td class="heat-(\d)">([\d.]+)</td>', table)
    assert ("9", "99.0") in cells
    assert len(cells) > 8
    for level, percent in cells:
        assert int(level) == min(9, int(float(percent) / 10 + 1e-9))


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2)."""
    light, dark = sorted(
        (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05 for colour in (one, other)), reverse=True
    )
    return light / dark


def test_texts_can_be_read_in_either_theme() -> None:
    colours = dict(re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}, #[0-9a-f]{6})\)", CSS))
    for theme in (0, 1):
        shade = {name: pair.split(", ")[theme] for name, pair in colours.items()}
        pairs = [(text, back) for text in ("text", "quiet", "accent", "warm") for back in ("page", "raised")]
        for front, back in [*pairs, ("warm", "warm-back")]:
            assert contrast(shade[front], shade[back]) >= 4.5, (theme, front, back)
        for sign in ("accent", "warm"):  # lines of figures
            assert contrast(shade[sign], shade["page"]) >= 3


def test_numbers_on_the_heat_map_can_be_read_and_its_steps_told_apart() -> None:
    rules = re.findall(r"\.heat-(\d)[^{]*\{ background: (#[0-9a-f]{6}); color: (#[0-9a-f]{6}); \}", CSS)
    assert [int(level) for level, *_ in rules] == list(range(10))
    assert all(contrast(back, front) >= 4.5 for _, back, front in rules)
    ramp = np.array([linear(back) for _, back, _ in rules])
    # Machado, Oliveira and Fernandes (2009), table 1: protanopia, deuteranopia, tritanopia; and all colours seen.
    views = {
        "all": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        "grey": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
    }
    for name, view in views.items():
        light = 116 * np.cbrt((ramp @ np.array(view).T) @ [0.2126, 0.7152, 0.0722]) - 16  # CIE L*, of 100
        assert (np.diff(light) > 4).all(), name


def test_curves_have_means_and_intervals_over_seeds() -> None:
    results = complete_results() + [make_result(noise, "adv-linf:radius=8/255", 0, 0.7) for noise in ("none", "em")]
    results += [make_result("em", "adv-linf", 0, 0.1, target="other", key="other")]
    (sweep,) = breaker_sweeps(results)
    assert (sweep.breaker, sweep.parameter, sweep.target) == ("adv-linf", "radius", "smallcnn")
    points = sweep.curves[text("noise", "em")]
    assert [point.x for point in points] == [0, 8 / 255, 16 / 255]
    assert [point.mean for point in points] == pytest.approx([0.11, 0.7, 0.89])
    assert points[1][2:] == (None, None), "one seed has no interval"
    assert points[2].low is not None
    assert points[2].high is not None
    assert 0.89 - points[2].low == pytest.approx(points[2].high - 0.89)
    assert 0.02 < points[2].high - 0.89 < 0.03, "Student's for deviation 0.01 over three seeds is 0.0248"
    assert [len(curve) for curve in sweep.curves.values()].count(2) == 2, "the others have no middle"


def test_axes_map_marks_and_values_onto_pixels() -> None:
    even = Axis.percent([-0.03, 0.38], 10, 300, 20)
    assert even.marks == [(-0.1, "-10"), (0, "0"), (0.1, "10"), (0.2, "20"), (0.3, "30"), (0.4, "40")]
    assert [even(value) for value in (-0.1, 0.15, 0.4, 9)] == [300, 160, 20, 20]
    decades = Axis.decades([0, 0.2, 30], 0, 400)
    assert [text for _, text in decades.marks] == ["0.01", "0.1", "1", "10", "100"]
    assert [decades(value) for value in (0, 0.1, 10)] == [0, 100, 300]
    assert [text for _, text in Axis.decades([10], 0, 1).marks] == ["10", "100"]
    crowded = Axis.at([0, 1, 2, 5, 9.5, 10], 30, 0, 100)
    assert [text for _, text in crowded.marks] == ["0", "5", "10"]
    assert Axis.at([3], 30, 0, 100)(3) == 0


def test_labels_do_not_cover_each_other_and_stay_within() -> None:
    points = [(float(x), float(y), "a-noise") for x in (10, 12, 190) for y in (50, 52, 60)]
    placed = place_labels(points, 200)
    spans = [(one.x if one.anchor == "start" else one.x - 49, one.y) for one in placed]
    assert all(left >= 0 and left + 49 <= 200 for left, _ in spans)
    for place, (left, base) in enumerate(spans):
        for other, height in spans[:place]:
            assert abs(left - other) >= 49 or abs(base - height) >= 14


def test_pages_of_noises_no_longer_on_record_are_removed_and_strangers_are_not(tmp_path: Path) -> None:
    folder, into = boards(tmp_path / "boards", complete_results()), tmp_path / "site"
    build.write_site(folder, into)
    mine = into / "demo" / "mine.html"
    mine.write_text("<h1>mine</h1>")
    before = {path.name for path in (into / "demo").glob("*.html")}
    boards(folder, [one for one in complete_results() if one.noise != "sem"])
    build.write_site(folder, into)
    (gone,) = before - {path.name for path in (into / "demo").glob("*.html")}
    assert gone.startswith("sem-")
    assert mine.exists()


def test_the_command_builds_the_committed_boards(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["site", "--boards", str(ROOT / "leaderboards"), "--into", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output == f"Site: {tmp_path}/index.html\n"
    site = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.*")}
    records = [read_results(path) for path in sorted((ROOT / "leaderboards").glob("*/results.jsonl"))]
    noises = sum(len({one.noise for one in found.values()}) for found in records)
    boards = [name for name in site if name.endswith(".html") and not name.startswith("docs/")]
    assert len(boards) == 1 + len(records) + noises
    for name, page in pages(site):
        assert "No command here" not in page.text, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "holds no board; run `uebench run` first"),
        (["demo"], "holds no results; run `uebench run demo` first"),
        (["dmo"], "unknown suite 'dmo'; did you mean demo?"),
    ],
)
def test_where_there_is_nothing_to_show_it_says_so(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build.write_site(tmp_path, tmp_path / "site", words)
    assert not (tmp_path / "site").exists()


def test_a_wheel_holds_the_templates(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("uebench", "plugins"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(copy)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    held = {
        name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(("uebench/site/", "uebench/authoring/"))
    }
    folders = [ROOT / "uebench" / name for name in ("site", "authoring")]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert held == {str(path.relative_to(ROOT)) for path in files}


def test_a_noise_that_two_boards_call_differently_has_one_page(tmp_path: Path) -> None:
    other = [make_result(one.noise, one.breaker, one.seed, 0.5, recipe="sgd@1:steps=9") for one in complete_results()]
    renamed = [structs.replace(one, noise="rem:other") if one.noise == "rem" else one for one in other]
    site = build.build_site(boards(tmp_path, complete_results() + renamed))
    found = [
        row["page"] for board in json.loads(site["data.json"])["suites"]["demo"]["boards"] for row in board["noises"]
    ]
    assert len(set(found)) == len(found) / 2 == 4
    assert set(found) < set(site)
