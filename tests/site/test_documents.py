"""The documentation as pages of the site, and the first page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from uebench.site.build import build_site
from uebench.site.documents import heading_anchor, render_documents


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    pages = build_site(ROOT / "leaderboards")
    return {name: content.decode() for name, content in pages.items() if name.endswith(".html")}


def test_every_document_is_a_page_that_the_first_one_links(site: dict[str, str]) -> None:
    names = {path.stem for path in (ROOT / "uebench" / "site" / "docs").glob("*.md")} | {"findings"}
    assert {name for name in site if name.startswith("docs/")} == {f"docs/{name}.html" for name in names}
    assert all(f'href="docs/{name}.html"' in site["index.html"] for name in names)


def test_links_between_documents_lead_to_pages_and_headings(site: dict[str, str]) -> None:
    links = [
        (name, link)
        for name, text in site.items()
        if name.startswith("docs/")
        for link in re.findall(r'href="([^"]+)"', text.partition("<article>")[2].partition("</article>")[0])
    ]
    assert ("docs/running.html", "findings.html#recipes") in links
    for name, link in links:
        address, _, anchor = link.partition("#")
        there = site[f"docs/{address}" if address else name]
        assert not anchor or f'id="{anchor}"' in there, (name, link)


def test_documents_have_no_comments_inline_styles_or_links_that_lead_nowhere(site: dict[str, str]) -> None:
    for name, text in site.items():
        if name.startswith("docs/"):
            article = text.partition("<article>")[2]
            assert not re.search(r"<!--|style=|<a>|\.md\"", article), name


def test_html_in_a_document_is_shown_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "FINDINGS.md").write_text(
        "# A `title`\n\n<script>alert(1)</script> [x](../nowhere.md) [y](boards.md#a)\n"
    )
    document = render_documents(tmp_path)["findings"]
    assert document.title == "A title"
    assert "&lt;script&gt;" in document.content
    assert " x " in document.content
    assert '<a href="boards.html#a">y</a>' in document.content


def test_anchors_are_those_of_hosts_of_source_code() -> None:
    assert heading_anchor("Slurm, and several GPUs") == "slurm-and-several-gpus"
    assert heading_anchor("The digits: `demo`") == "the-digits-demo"


def test_the_first_page_starts_with_featured_suites_and_ends_with_plain_training_alone(site: dict[str, str]) -> None:
    order = re.findall(r'<p class="facts"><code>(.*?)</code>', site["index.html"])
    assert order == ["cifar10-fast", "cifar10-small", "demo", "cifar10-recipes", "demo-pretrained", "demo-vit"]


def test_the_first_page_orders_noises_by_what_is_left_against_every_breaker(site: dict[str, str]) -> None:
    first = site["index.html"].partition("<tbody>")[2].partition("</tbody>")[0]
    values = [float(value) for value in re.findall(r"</th>\s*<td>(-?[\d.]+)</td>", first)]
    assert len(values) == 8
    assert values == sorted(values, reverse=True)
