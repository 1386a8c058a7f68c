"""Writes a board's files: `noises.csv`, `.tex`, `breakers.csv`, `README.md`, and a table inside another document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from msgspec import structs

from uebench import history, leaderboard, naming, ranking, spec, tables
from uebench.errors import UserError
from uebench.files import write_whole
from uebench.plan import Cell
from uebench.ranking import Board
from uebench.result import Result
from uebench.selection import Selection, describe_chain
from uebench.suite import Suite

READING = """\
**Residual protection** ranks the noises: accuracy of plain training on clean images minus the highest accuracy that any
required breaker reaches on the protected ones, in points, with its 95 % interval over seeds. Noises whose intervals
overlap share a **band**. **Gap** is the clean accuracy under a breaker minus the protected accuracy under the same
breaker, the smallest over required breakers. **Highest** is the most that any breaker on the board recovers, required
or not. Accuracies are those of the last step on the clean test set, in percent, mean ± standard deviation over seeds,
alone where there is one. Fewer than three seeds make an entry *provisional*. PSNR and SSIM are measured on the released
8-bit images.
"""
TARGETS = "Every target: the accuracy under the required breaker that recovers most there"
RECIPES = """\
How alike two recipes order the noises that both have been used on: Kendall's tau is 1 where the orders are the same and
-1 where one is the other reversed. Beside itself a recipe is compared seed by seed, and tau is the mean over their
pairs: what chance leaves of an order. The times are those of training one network.
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


FILES = ("noises.csv", "noises.tex", "breakers.csv", "README.md")
"""What `publish` writes."""
GALLERY = "gallery"
"""The folder of pictures; they come with the noises and are no part of the record."""


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
        parts = [getattr(board, name).assign(board=board.title) for board in boards]
        text = tables.csv(pd.concat(parts), 6) if parts else ""
        write_whole(folder / f"{name}.csv", text.encode())
    sheets = [f"% {' '.join(board.title.split())}\n{tables.latex(*tables.noises(board))}" for board in boards]
    write_whole(folder / "noises.tex", "\n".join(sheets).encode())  # each title is a comment, and so one line
    parts = [
        f"# {suite.title}\n\nSuite `{suite.name}`. Generated by `uebench rank {suite.name}` from `results.jsonl`.\n"
    ]
    parts.append(READING)
    for board in boards:
        parts += [f"## {tables.plain(board.title)}\n", tables.markdown(*tables.noises(board))]
        if len(tables.columns(board, required=False)) > len(tables.columns(board, required=True)):
            parts += ["Every breaker; in parentheses what no rank needs:\n", tables.markdown(*tables.matrix(board))]
        if len(board.targets) > 1:
            parts += [f"{TARGETS}; in parentheses what no rank needs:\n", tables.markdown(*tables.targets(board))]
        parts += [
            "Breakers, by the mean accuracy they recover over all ranked noises:\n",
            tables.markdown(*tables.breakers(board)),
        ]
    alike = tables.recipes(boards)
    if alike[1]:
        parts += [f"## Recipes\n\n{RECIPES}", tables.markdown(*alike)]
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
    write_whole(boards / "README.md", (INDEX + tables.grid([["suite", "what it is"], *rows]) + RULES).encode())


def _replaced(text: str, block: re.Match[str]) -> str:
    return block[1] + text + block[2]


BLOCKS = {"board": tables.noises, "breakers": tables.matrix, "targets": tables.targets}
"""The tables of each board that a document may hold, between `<!-- NAME: SUITE -->` and `<!-- end -->`."""


def insert(document: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Replace the blocks of a suite in a document by its tables; raises `UserError` where there is none."""
    try:
        text = document.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {error}") from None
    found = 0
    contents = {name: [make(board) for board in boards] for name, make in BLOCKS.items()}
    contents["recipes"] = [tables.recipes(boards)]
    for name, made in contents.items():
        block = re.compile(rf"(<!-- {name}: {re.escape(suite.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        content = "\n".join(tables.markdown(*one) for one in made)
        text, count = block.subn(partial(_replaced, content), text)
        found += count
    if not found:
        raise UserError(f"{document} has no block <!-- board: {suite.name} --> ... <!-- end -->")
    write_whole(document, text.encode())


def on_record(boards: Path, suite: Suite) -> tuple[dict[str, Result], history.Rulings]:
    """Return the results of a board by key, and what was decided about it."""
    folder = boards / suite.name
    return leaderboard.read(folder / "results.jsonl"), history.rulings(history.read(folder))


def rebuild(folder: Path, suite: Suite, results: Mapping[str, Result]) -> list[ranking.Board]:
    """Rank a board's results under the decisions in its history, and write every generated file; returns the boards."""
    boards = ranking.rank(suite, results.values(), history.rulings(history.read(folder)))
    publish(folder, suite, boards)
    index(folder.parent)
    return boards


def labelled(selection: Selection, cell: Cell, result: Result) -> Result:
    """Return a result with the names that this suite gives its parts."""
    names = dict(vars(naming.labels(selection, cell)))
    if result.chosen:
        called = {
            spec.chain_label(one.cell.chain): describe_chain(selection.suite, one.cell.chain) for one in cell.trials
        }
        names |= {"chosen": called[result.chosen]}
        names |= {"trials": {called[name]: accuracy for name, accuracy in result.trials.items()}}
    return structs.replace(result, suite=selection.suite.name, parameters=cell.parameters, **names)
