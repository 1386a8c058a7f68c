"""Turns the documentation, markdown files, into pages of the site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

DOCUMENTS = files("uebench.site") / "docs"
FINDINGS_FILE = "FINDINGS.md"
"""What people wrote about the boards, beside them."""


@dataclass(frozen=True)
class Document:
    """A page of documentation: its title, and its content as HTML."""

    title: str
    content: Markup


def render_documents(boards: Path) -> dict[str, Document]:
    """Return the pages by name: the documentation of the package, and the findings beside the boards if there are any.

    Links between documents lead to their pages; links to other files of the source tree become plain text.
    """
    texts = {path.name: path.read_text("utf-8") for path in DOCUMENTS.iterdir() if path.name.endswith(".md")}
    if (boards / FINDINGS_FILE).exists():
        texts[FINDINGS_FILE] = (boards / FINDINGS_FILE).read_text("utf-8")
    return {Path(name).stem.lower(): _render(text, set(texts)) for name, text in sorted(texts.items())}


def _render(text: str, names: set[str]) -> Document:
    """Return a markdown text as a page; HTML in it is shown as it is written, comments are left out."""
    text = re.sub(r"^<!-- .*? -->\n", "", text, flags=re.MULTILINE)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", heading_anchor(tokens[index + 1].content))
        elif token.type in ("th_open", "td_open"):  # pages have no inline styles
            token.attrs = {} if token.attrs.pop("style", "") else {"class": "text"}
        elif token.type == "table_open":
            token.attrSet("class", "document")
        for child in token.children or ():
            if child.type == "link_open":
                _lead_to_page(child, names)
    title = next(tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open")
    content = parser.renderer.render(tokens, parser.options, {})
    content = content.replace("<table", '<div class="scroll" tabindex="0"><table').replace("</table>", "</table></div>")
    return Document(title.replace("`", ""), Markup(re.sub(r"<a>(.*?)</a>", r"\1", content, flags=re.DOTALL)))


def heading_anchor(heading: str) -> str:
    """Return the anchor of a heading, as hosts of source code make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _lead_to_page(link: Token, names: set[str]) -> None:
    """Let a link lead to the page of a document, or nowhere where it leads to another file."""
    address, sign, anchor = str(link.attrGet("href")).partition("#")
    name = Path(address).name
    if name in names:
        link.attrSet("href", f"{Path(name).stem.lower()}.html{sign}{anchor}")
    elif address and "://" not in address:
        link.attrs.clear()
