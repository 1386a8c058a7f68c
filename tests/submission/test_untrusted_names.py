"""Names from bundles on pages, terminals and in tables."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from uebench.board.formats import csv_table, latex_table, markdown_table
from uebench.cli.console import make_console, print_line, print_table


def test_names_are_shown_as_they_are_on_every_page() -> None:
    evil = "a|b <i>x</i> `c` *d* [e](f) $g$ &amp; ~h~ _i_ adv_radius=4/255 \\ https://j www.k"
    (_, _, line) = markdown_table(["head"], [[evil]]).splitlines()
    assert line == (
        r"| a\|b \<i\>x\</i\> \`c\` \*d\* \[e\](f) \$g\$ \&amp; \~h\~ \_i\_ adv_radius=4/255 \\ https\://j www\.k |"
    )
    assert markdown_table(["head"], [["two\nlines"]]).splitlines()[-1] == "| two lines |"
    assert r"\textbackslash input\{x\} 5\% \& \_\$\#" in latex_table(["head"], [[r"\input{x} 5% & _$#"]])


def test_names_are_shown_as_they_are_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(make_console(), "[b]title[/b]", ["[u]head[/u]"], [["[red]em[/red] :snake:"]])
    print_line("[link=x]y[/link] :snake:")
    output = capsys.readouterr().out
    for text in ("[b]title[/b]", "[u]head[/u]", "[red]em[/red] :snake:", "[link=x]y[/link] :snake:"):
        assert text in output


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    table = pd.DataFrame({"name": [text, "em"], "number": [-0.5, float("nan")]})
    rows = list(csv.reader(csv_table(table, 2).splitlines()))
    assert rows[1] == [f"'{text}", "-0.50"] if "\r" not in text else rows[1][0].startswith("'")
    assert rows[-1] == ["em", ""]
