"""The static site in a browser: sorted, filtered and read from disk, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.site.test_build import boards, two_breakers, varied
from uebench.site.build import write_site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")
Visit = Callable[..., Any]
__all__ = ["two_breakers"]  # a fixture, used by being here


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    return write_site(boards(folder / "boards", varied()), folder / "pages").parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # root may run this
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Visit]:
    """Open a page of the site; afterwards there must have been no error and no request that leaves the site."""
    wrong: list[str] = []
    contexts = []

    def check(request: Any) -> None:
        if not request.url.startswith((site.as_uri(), "data:,")):
            wrong.append(f"asks for {request.url}")

    def open_page(name: str, width: int = 1280, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", check)
        page.on("requestfailed", lambda request: wrong.append(f"lacks {request.url}"))
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def names(page: Any, place: int = 0) -> list[list[str]]:
    """Return the names in the rows that are seen of the first board's table, by budget class."""
    table = page.locator("table.sortable").nth(place)
    read = "bodies => bodies.map(b => [...b.rows].filter(r => r.dataset.name && !r.hidden).map(r => r.dataset.name))"
    return table.locator("tbody").evaluate_all(read)


def head(page: Any, text: str) -> Any:
    return page.locator("table.sortable").first.locator("thead th").filter(has_text=text).first


def test_a_click_sorts_within_budget_classes_and_a_second_turns_the_order(visit: Visit) -> None:
    page = visit("demo/index.html")
    ranked = names(page)
    assert ranked == [["none"], ["rem", "sem", "em", "tap"], ["sc"]]
    assert head(page, "rank").get_attribute("aria-sort") == "ascending"
    head(page, "noise").get_by_role("button").click()
    assert names(page) == [["none"], ["em", "rem", "sem", "tap"], ["sc"]]
    head(page, "noise").get_by_role("button").click()
    assert names(page) == [["none"], ["tap", "sem", "rem", "em"], ["sc"]]
    assert head(page, "noise").get_attribute("aria-sort") == "descending"
    assert page.locator("table.sortable").first.locator("[aria-sort]").count() == 1
    for _ in range(2):
        head(page, "residual").get_by_role("button").click()
        assert names(page)[1][-1] == "tap", "what is not known comes last in either order"
    assert names(page)[1] == ["rem", "sem", "em", "tap"]
    head(page, "rank").get_by_role("button").click()
    assert names(page) == ranked


def test_the_keyboard_alone_sorts_filters_and_opens_a_page(visit: Visit) -> None:
    page = visit("demo/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    head(page, "gap").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head(page, "gap").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert head(page, "gap").get_attribute("aria-sort") == "descending"
    page.get_by_label("Noise", exact=True).first.focus()
    page.keyboard.type("SEM")
    assert names(page) == [["none"], ["sem"], []]
    page.get_by_role("link", name="sem").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/sem-*.html")
    assert page.locator("h1").inner_text() == "sem"


def test_filters_go_by_name_budget_and_status_and_reach_every_figure_of_the_board(visit: Visit) -> None:
    page = visit("demo/index.html")
    board = page.locator(".board").first
    count = board.locator("output")
    board.get_by_label("Status").select_option("unranked")
    assert names(page) == [["none"], ["tap"], []]
    assert names(page, 1) == [["none", "tap"]]
    assert count.inner_text() == "1 of 5 noises"
    assert not board.locator("tr.class").last.is_visible(), "a class without noises has no heading"
    board.get_by_label("Status").select_option("all")
    board.get_by_label("Budget").select_option("L2")
    assert names(page) == [["none"], [], ["sc"]]
    assert board.locator(".panels figure:visible").count() == 1
    assert board.locator(".cost g:visible").count() == 1
    board.get_by_label("Budget").select_option("all")
    assert count.inner_text() == "5 of 5 noises"
    assert board.locator(".panels figure:visible").count() == 4, "tap has one point"


def test_filters_are_kept_in_the_address_and_a_link_resets_them(visit: Visit) -> None:
    page = visit("demo/index.html")
    board, other = page.locator(".board").nth(0), page.locator(".board").nth(1)
    assert not board.get_by_role("link", name="Reset filters").is_visible()
    board.get_by_label("Noise", exact=True).fill("em")
    board.get_by_label("Status").select_option("ranked")
    other.get_by_label("Budget").select_option("L-inf 32/255")
    assert "board-1.name=em" in page.url
    kept = names(page)
    assert kept == [["none"], ["rem", "sem", "em"], []]
    page.reload()
    assert names(page) == kept
    assert board.get_by_label("Noise", exact=True).input_value() == "em"
    assert other.get_by_label("Budget").input_value() == "L-inf 32/255"
    assert board.locator("output").inner_text() == "3 of 5 noises"
    board.get_by_role("link", name="Reset filters").click()
    assert names(page) == [["none"], ["rem", "sem", "em", "tap"], ["sc"]]
    assert "board-1" not in page.url.partition("?")[2]
    assert "board-2.budget" in page.url, "the other board keeps its own"
    page.reload()
    assert names(page) == [["none"], ["rem", "sem", "em", "tap"], ["sc"]]


def test_an_address_with_values_that_no_board_has_hides_nothing(visit: Visit) -> None:
    page = visit("demo/index.html")
    page.goto(f"{page.url}?board-1.budget=gone&board-9.name=em&other=%3Cb%3E#board-2")
    assert names(page) == [["none"], ["rem", "sem", "em", "tap"], ["sc"]]
    page.locator(".board").first.get_by_label("Noise", exact=True).fill("sc")
    assert "other=" in page.url, "what is not ours is left"
    assert page.url.endswith("#board-2")


@pytest.mark.parametrize("name", ["index.html", "demo/index.html", "sem"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_in_either_theme(name: str, scheme: str, visit: Visit, site: Path) -> None:
    if name == "sem":
        name = str(next((site / "demo").glob("sem-*.html")).relative_to(site))
    page = visit(name, width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.scrollWidth") <= 390
    assert page.get_by_role("link", name="How to hand in").is_visible()


def test_a_download_is_the_file_beside_the_page(visit: Visit, site: Path) -> None:
    page = visit("demo/index.html")
    for name in ("noises.csv", "noises.tex", "board.json"):
        link = page.locator(f".downloads a[href='{name}']")
        assert link.get_attribute("download") == ""
        assert (site / "demo" / name).stat().st_size > 100


@pytest.mark.parametrize("name", ["index.html", "demo/index.html", "sem"])
def test_nothing_but_tables_scrolls_sideways_on_a_phone(name: str, visit: Visit, site: Path) -> None:
    if name == "sem":
        name = str(next((site / "demo").glob("sem-*.html")).relative_to(site))
    page = visit(name, width=375)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for frame in page.locator(".scroll").all():
        left = frame.locator("tbody th[scope=row]").first.bounding_box()
        frame.evaluate("frame => { frame.scrollLeft = 9999; }")
        now = frame.locator("tbody th[scope=row]").first.bounding_box()
        assert now["x"] == pytest.approx(left["x"], abs=60), "the name stays in sight"
        assert 0 <= now["x"] < 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_turns_and_is_remembered(scheme: str, visit: Visit) -> None:
    page = visit("demo/index.html", color_scheme=scheme)

    def dark() -> bool:
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
        return int(red) < 128

    assert dark() == (scheme == "dark")
    page.locator("#theme").click()
    assert dark() == (scheme == "light")
    page.get_by_role("link", name="uebench").click()
    page.wait_for_url("**/pages/index.html")
    assert dark() == (scheme == "light")
    page.locator("#theme").click()
    assert dark() == (scheme == "dark")


def test_without_storage_the_theme_still_turns(visit: Visit) -> None:
    page = visit("index.html", color_scheme="light")
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })")
    page.reload()
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_without_javascript_everything_is_there_but_what_needs_it(visit: Visit) -> None:
    page = visit("demo/index.html", java_script_enabled=False)
    assert page.locator(".ranked tbody th[scope=row]").first.is_visible()
    assert page.locator(".panels svg").first.is_visible()
    for name in ("#theme", ".filters", "thead button"):
        assert not page.locator(name).first.is_visible(), name


def test_on_paper_whole_tables_are_shown_and_controls_are_not(visit: Visit) -> None:
    page = visit("demo/index.html", color_scheme="light")
    page.locator("#theme").click()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert not page.locator(".filters").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color.match(/[0-9]+/)[0] < 128"), "dark on white"
