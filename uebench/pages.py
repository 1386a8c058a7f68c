"""Writes a board's files: `noises.csv`, `.tex`, `breakers.csv`, `README.md`, and a table inside another document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from uebench.api import UserError
from uebench.ranking import Board
from uebench.store import write_whole
from uebench.suite import Suite

READING = """\
**Residual protection** ranks the noises: accuracy of plain training on clean images minus the highest accuracy that any
required breaker reaches on the protected ones, in points, with its 95 % interval over seeds. Noises whose intervals
overlap share a **band**. **Gap** is the clean accuracy under a breaker minus the protected accuracy under the same
breaker, the smallest over required breakers. **Highest** is the most that any breaker on the board recovers, required
or not. Accuracies are those of the last step on the clean test set, in percent, mean ± standard deviation over seeds.
Fewer than three seeds make an entry *provisional*. PSNR and SSIM are measured on the released 8-bit images.
"""
INDEX = """\
# Leaderboards

Generated; one folder a suite, each with its record, `results.jsonl`, one line a trained network. Every other file but
`history.jsonl` follows from the record.

"""
RULES = """
## What the numbers mean

A noise is ranked by its residual protection: accuracy of plain training on clean images minus the highest accuracy that
a breaker reaches on the protected ones. Required breakers count for every noise, others from the day they were accepted
against it. An entry needs every required cell; three seeds rank it, fewer make it provisional. Accuracies are those of
the last step on clean test images.

## How to hand in

`uebench submit SUITE --noise NAME --into FILE.zip` after `uebench run SUITE --noise NAME`, or with `--breaker NAME` for
a breaker against noises that are listed; then send the file in a pull request or an issue. A maintainer runs
`uebench verify`, which imports nothing from it, and `uebench accept`. Badges say how far an entry was looked at:
*claimed* (handed in), *valid* (complete, unchanged, plausible, references as on the board), *re-run* (a sample of its
cells, drawn by the maintainer, run again and found the same). No badge: run by the maintainers. Two accuracies of a
cell are the same when they lie within three standard deviations of the difference between two runs,
sqrt(2 (s² + p (1 - p) / n)): s is the deviation over the cell's seeds, p their mean, n the number of test images.

## Disputes and withdrawals

Whoever doubts a number runs its cell again, or hands in a breaker that recovers more. Numbers that differ for one cell
are never averaged: those on record stay until people have found out why. An entry that falls is withdrawn with its
reason; it keeps its row and loses its rank. `history.jsonl` has every decision with its date and the values before and
after it, and is only ever added to. A corrected noise comes back under a raised version.
"""


def _percent(value: object, deviation: object = None) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    spread = "" if deviation is None or pd.isna(deviation) else f" ± {100 * deviation:.1f}"  # type: ignore[call-overload, operator]
    return f"{100 * value:.1f}{spread}"  # type: ignore[operator]


def _number(value: object, digits: int) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"  # type: ignore[call-overload]


def plain(text: str) -> str:
    """Return markdown that shows a text as it is: no markup of markdown or HTML, no second cell, no second line."""
    escaped = re.sub(
        r"[\\`*<>\[\]|~&!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|(?<=www)\.", lambda sign: f"\\{sign[0]}", text
    )
    return " ".join(escaped.split())


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain texts in markdown; the outer columns to the left, the numbers to the right."""
    return _grid([[plain(cell) for cell in row] for row in (head, *rows)])


def _grid(rows: Sequence[Sequence[str]]) -> str:
    width = len(rows[0])
    marks = ["---:" if 2 <= place < width - 1 else "---" for place in range(width)]
    return "".join(f"| {' | '.join(cell or ' ' for cell in row)} |\n" for row in (rows[0], marks, *rows[1:]))


def csv(table: pd.DataFrame, digits: int) -> str:
    """Return a table as CSV in which no text is a formula to a spreadsheet."""

    def guarded(column: pd.Series[Any]) -> pd.Series[Any]:
        if pd.api.types.is_numeric_dtype(column):
            return column
        cells = [f"'{one}" if isinstance(one, str) and one.startswith(FORMULA) else one for one in column]
        return pd.Series(cells, column.index, dtype=object)

    return str(table.apply(guarded).to_csv(index=False, float_format=f"%.{digits}f"))


def latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in LaTeX, for booktabs; each text is escaped and on one line, as a blank one ends a paragraph."""
    first, *others = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    return str(pd.DataFrame(others, columns=first).to_latex(index=False, escape=True))


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of one."""
FILES = ("noises.csv", "noises.tex", "breakers.csv", "README.md")
"""What `publish` writes."""
GALLERY = "gallery"
"""The folder of pictures; they come with the noises and are no part of the record."""
VISIBILITY = ["L-inf", "PSNR", "SSIM"]


def _interval(value: object, low: object, high: object) -> str:
    known = not (low is None or pd.isna(low))  # type: ignore[call-overload]
    return _percent(value) + (f" [{100 * low:.1f}, {100 * high:.1f}]" if known else "")  # type: ignore[operator]


def _breakers(board: Board, required: bool) -> list[str]:
    """Return the breakers that have a column, those required or all, the required ones first."""
    needed = set(board.breakers[board.breakers["required"]]["breaker"])
    found = [name.removeprefix("accuracy ") for name in map(str, board.noises) if name.startswith("accuracy ")]
    return sorted((name for name in found if name in needed or not required), key=lambda name: name not in needed)


def table(board: Board, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of noises, as people read it; the brief one leaves out their visibility."""
    breakers = _breakers(board, required=True)
    head = [
        "rank",
        "noise",
        "band",
        "residual",
        "gap",
        *breakers,
        "highest",
        "seeds",
        *VISIBILITY,
        "noise s",
        "remarks",
    ]
    budgets = board.noises[board.noises["status"] != "reference"]["budget"].nunique()
    rows = []
    for row in board.noises.to_dict("records"):
        rank = {"ranked": row["rank"], "provisional": f"({row['rank']})"}.get(row["status"], "–")
        lacks = f"unranked, lacks {row['lacks']}" if row["status"] == "unranked" else ""
        ruling = f"withdrawn: {row['ruling']}" if row["status"] == "withdrawn" else row["ruling"]
        status = row["status"] if row["status"] in ("reference", "provisional") else ""
        remarks = [status, lacks, ruling, row["flags"]]
        reference = row["status"] == "reference"
        residual = [row[f"residual_{part}"] for part in ("protection", "low", "high")]
        highest = f"{_percent(row.get('highest_accuracy'))} ({row.get('highest_breaker')})"
        rows.append(
            [
                str(rank),
                row["noise"],
                "–" if reference or pd.isna(row["band"]) else str(row["band"]),
                "–" if reference else _interval(*residual),
                "–" if reference else _percent(row["same_breaker_gap"]),
                *(_percent(row.get(f"accuracy {name}"), row.get(f"deviation {name}")) for name in breakers),
                "–" if reference or lacks else highest,
                str(row["seeds"]),
                f"{row['noise_linf'] * 255:.0f}/255",
                _number(row["psnr"], 1),
                _number(row["ssim"], 3),
                _number(row["noise_seconds"], 0),
                ", ".join([*filter(None, remarks), *([row["budget"]] if budgets > 1 and not reference else [])]),
            ]
        )
    kept = [place for place, name in enumerate(head) if not (brief and name in VISIBILITY)]
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows]


def matrix(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the accuracies of every noise under every breaker; those not required in parentheses."""
    needed, breakers = _breakers(board, required=True), _breakers(board, required=False)
    head = ["rank", "noise", *(name if name in needed else f"({name})" for name in breakers), "highest"]
    rows = [
        [
            "–" if pd.isna(row["rank"]) else str(row["rank"]),
            row["noise"],
            *(_percent(row.get(f"accuracy {name}"), row.get(f"deviation {name}")) for name in breakers),
            _percent(row.get("highest_accuracy")),
        ]
        for row in board.noises.to_dict("records")
    ]
    return head, rows


def breaker_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of breakers."""
    head = ["rank", "breaker", "recovered", "lowest", "on clean images", "training s", "remarks"]
    rows = []
    for row in board.breakers.to_dict("records"):
        lacks = f"unranked, lacks {row['lacks']}" if row["lacks"] else ""
        took = f"chose {row['chosen']}" if row["chosen"] else ""
        rows.append(
            [
                "–" if pd.isna(row["rank"]) else f"{row['rank']:.0f}",
                row["breaker"],
                _interval(row["recovered"], row["recovered_low"], row["recovered_high"]),
                _percent(row["lowest"]),
                _percent(row["clean_accuracy"]),
                _number(row["train_seconds"], 0),
                ", ".join(filter(None, ["required" if row["required"] else "", took, lacks, row["flags"]])),
            ]
        )
    return head, rows


def picture(name: str) -> str:
    """Return the name, in a board's gallery, of the picture of a noise."""
    return f"{re.sub(r'[^a-z0-9.=-]+', '_', name)}.png"


def hang(folder: Path, galleries: Mapping[str, bytes]) -> None:
    """Write pictures of noises, by name, into a board's gallery."""
    for name, content in galleries.items():
        write_whole(folder / GALLERY / picture(name), content)


def publish(folder: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Write every generated file of a board's folder; its page shows the pictures that hang in its gallery."""
    for name in ("noises", "breakers"):
        tables = [getattr(board, name).assign(board=board.title) for board in boards]
        text = csv(pd.concat(tables), 6) if tables else ""
        write_whole(folder / f"{name}.csv", text.encode())
    titles = [" ".join(board.title.split()) for board in boards]  # a comment ends with its line
    text = "\n".join(f"% {title}\n{latex(*table(board))}" for title, board in zip(titles, boards, strict=True))
    write_whole(folder / "noises.tex", text.encode())
    parts = [
        f"# {suite.title}\n\nSuite `{suite.name}`. Generated by `uebench rank {suite.name}` from `results.jsonl`.\n"
    ]
    parts.append(READING)
    for board in boards:
        parts += [f"## {plain(board.title)}\n", markdown(*table(board))]
        if len(_breakers(board, required=False)) > len(_breakers(board, required=True)):
            parts += ["Every breaker; in parentheses what no rank needs:\n", markdown(*matrix(board))]
        parts += [
            "Breakers, by the mean accuracy they recover over all ranked noises:\n",
            markdown(*breaker_table(board)),
        ]
    pictures = sorted((folder / GALLERY).glob("*.png"))
    if pictures:
        parts.append(
            "## Gallery\n\nAn image of each class, clean and protected, and the noise, amplified to the full range.\n"
        )
        parts += [f"{path.stem}\n\n![{path.stem}]({GALLERY}/{path.name})\n" for path in pictures]
    write_whole(folder / "README.md", "\n".join(parts).encode())


def index(boards: Path) -> None:
    """Write the list of every board in a folder of boards."""
    pages = sorted(boards.glob("*/README.md"))
    titles = [page.read_text("utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    names = [page.parent.name for page in pages]
    rows = [
        [f"[{name}]({name}/README.md)", title.replace("|", "\\|")] for name, title in zip(names, titles, strict=True)
    ]
    write_whole(boards / "README.md", (INDEX + _grid([["suite", "what it is"], *rows]) + RULES).encode())


def _replaced(tables: str, block: re.Match[str]) -> str:
    return block[1] + tables + block[2]


BLOCKS = {"board": table, "breakers": matrix}
"""The tables that a document may hold, between `<!-- NAME: SUITE -->` and `<!-- end -->`."""


def insert(document: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Replace the blocks of a suite in a document by its tables; raises `UserError` where there is none."""
    try:
        text = document.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {error}") from None
    found = 0
    for name, make in BLOCKS.items():
        block = re.compile(rf"(<!-- {name}: {re.escape(suite.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        tables = "\n".join(markdown(*make(board)) for board in boards)
        text, count = block.subn(partial(_replaced, tables), text)
        found += count
    if not found:
        raise UserError(f"{document} has no block <!-- board: {suite.name} --> ... <!-- end -->")
    write_whole(document, text.encode())
