"""Writes a board's files: `noises.csv`, `.tex`, `breakers.csv`, `README.md`, and a table inside another document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from msgspec import structs

from uebench.board.columns import breaker_frame, breaker_names, noise_frame
from uebench.board.formats import csv_table, escape_markdown, latex_table, markdown_grid, markdown_table
from uebench.board.headline import headline
from uebench.board.heat_map import board_heat_map
from uebench.board.ranking import Board, rank_results
from uebench.board.records import RecordChoice, SuiteRecords, mark_records
from uebench.board.tables import breaker_matrix, breaker_table, noise_table, recipe_table, target_table
from uebench.components.errors import UserError
from uebench.components.spec import chain_label, chain_text
from uebench.planning.job_names import cell_labels
from uebench.planning.plan import Cell
from uebench.planning.selection import Selection, chain_label_in_suite
from uebench.planning.suite import Suite
from uebench.storage.atomic_files import write_atomically
from uebench.storage.history import Rulings, current_rulings, read_history
from uebench.storage.result import Result
from uebench.storage.results_file import read_results

READING_TEXT = """\
**Residual protection** is the accuracy of plain training on clean images minus the highest accuracy that a breaker
reaches on the protected ones, in points. **Residual, required** counts the breakers that every entry needs; it ranks
the noises and has a 95 % interval over seeds. **Residual, best known** counts every breaker on the board, and names the
one that recovers most. The **rank set** holds every rank that the seeds allow: with 95 % probability the sets of all
noises of a class hold their true ranks. **Gap** is the clean accuracy under a breaker minus the protected accuracy
under the same breaker, the smallest over required breakers. Accuracies are those of the last step on the clean test
set, in percent: mean ± standard deviation over seeds, without a deviation for a single seed. Fewer than three seeds
make an entry *provisional*. PSNR and SSIM are measured on the released 8-bit images. Times are medians.
"""
TARGETS_TEXT = "Every target: the accuracy under the required breaker that recovers most there"
RECIPES_TEXT = """\
How alike two recipes order the noises that both have been used on: Kendall's tau is 1 where the orders are the same and
-1 where one is the other reversed. Beside itself a recipe is compared seed by seed, and tau is the mean over their
pairs: what chance leaves of an order. The times are those of training one network.
"""
INDEX_TEXT = """\
# Leaderboards

Generated; one folder a suite, each with its record, `results.jsonl`, one line a trained network. Every other file but
`history.jsonl` follows from the record.

"""
RULES_TEXT = """
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


HEAT_MAP_FILE = "heat_map.svg"
GENERATED_FILES = ("noises.csv", "noises.tex", "breakers.csv", HEAT_MAP_FILE, "README.md")
"""The files that follow from a board's record."""
GALLERY = "gallery"
"""The folder of pictures; they come with the noises and are no part of the record."""


def picture_name(name: str) -> str:
    """Return the name, in a board's gallery, of the picture of a noise."""
    return f"{re.sub(r'[^a-z0-9.=-]+', '_', name)}.png"


def write_gallery(folder: Path, galleries: Mapping[str, bytes]) -> None:
    """Write pictures of noises, by name, into a board's gallery."""
    for name, content in galleries.items():
        write_atomically(folder / GALLERY / picture_name(name), content)


def publish_board(folder: Path, suite: Suite, boards: Sequence[Board], origin: str = "") -> None:
    """Write every generated file of a board's folder; its page shows the pictures of its gallery.

    `origin` says what the files were made from, by default the record in the folder.
    """
    for name, make_frame in (("noises", noise_frame), ("breakers", breaker_frame)):
        frames = [make_frame(board).assign(board=board.title) for board in boards]
        text = csv_table(pd.concat(frames), 6) if frames else ""
        write_atomically(folder / f"{name}.csv", text.encode())
    sheets = [f"% {' '.join(board.title.split())}\n{latex_table(*noise_table(board))}" for board in boards]
    write_atomically(folder / "noises.tex", "\n".join(sheets).encode())  # each title is a comment, and so one line
    first = next((board for board in boards if len(breaker_names(board, required=False)) > 1), None)
    if first:
        write_atomically(folder / HEAT_MAP_FILE, board_heat_map(first))
    origin = origin or f"Generated by `uebench rank {suite.name}` from `results.jsonl`."
    parts = _page_parts(folder, suite, boards, first, origin)
    write_atomically(folder / "README.md", "\n".join(parts).encode())


def _page_parts(folder: Path, suite: Suite, boards: Sequence[Board], drawn: Board | None, origin: str) -> Iterator[str]:
    """Yield the paragraphs of a board's page; `drawn` is the board of the heat map."""
    yield f"# {suite.title}\n\nSuite `{suite.name}`. {origin}\n"
    if sentences := [sentence for board in boards if (sentence := headline(board))]:
        yield "\n".join(sentences)
    if drawn:
        yield f"![Accuracies of every noise under every breaker]({HEAT_MAP_FILE})\n"
    yield READING_TEXT
    for board in boards:
        yield f"## {escape_markdown(board.title)}\n"
        yield markdown_table(*noise_table(board))
        if len(breaker_names(board, required=False)) > len(breaker_names(board, required=True)):
            yield "Every breaker; in parentheses those that no rank needs:\n"
            yield markdown_table(*breaker_matrix(board))
        if len(board.targets) > 1:
            yield f"{TARGETS_TEXT}; in parentheses those that no rank needs:\n"
            yield markdown_table(*target_table(board))
        yield "Breakers, by the mean accuracy they recover over all ranked noises:\n"
        yield markdown_table(*breaker_table(board))
    agreements = recipe_table(boards)
    if agreements[1]:
        yield f"## Recipes\n\n{RECIPES_TEXT}"
        yield markdown_table(*agreements)
    pictures = sorted((folder / GALLERY).glob("*.png"))
    if pictures:
        yield "## Gallery\n\nAn image of each class, clean and protected, and the noise, amplified to the full range.\n"
        yield from (f"{path.stem}\n\n![{path.stem}]({GALLERY}/{path.name})\n" for path in pictures)


def write_index(boards: Path) -> None:
    """Write the list of every board in a folder of boards."""
    pages = [page for page in sorted(boards.glob("*/README.md")) if page.with_name("results.jsonl").exists()]
    titles = [page.read_text("utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    names = [page.parent.name for page in pages]
    rows = [
        [f"[{name}]({name}/README.md)", title.replace("|", "\\|")] for name, title in zip(names, titles, strict=True)
    ]
    write_atomically(
        boards / "README.md", (INDEX_TEXT + markdown_grid([["suite", "what it is"], *rows]) + RULES_TEXT).encode()
    )


def _replaced(text: str, block: re.Match[str]) -> str:
    return block[1] + text + block[2]


BLOCKS = {"board": noise_table, "breakers": breaker_matrix, "targets": target_table}
"""The tables of each board that a document may hold, between `<!-- NAME: SUITE -->` and `<!-- end -->`.

Beside them `recipes` and `headline`, which are of all boards of a suite.
"""


def insert_tables(document: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Replace the blocks of a suite in a document by its tables; raises `UserError` where there is none."""
    try:
        text = document.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {error}") from None
    found = 0
    contents = {name: [make(board) for board in boards] for name, make in BLOCKS.items()}
    contents["recipes"] = [recipe_table(boards)]
    blocks = {name: "\n".join(markdown_table(*table) for table in tables) for name, tables in contents.items()}
    blocks["headline"] = "\n".join(headline(board) for board in boards)
    for name, content in blocks.items():
        block = re.compile(rf"(<!-- {name}: {re.escape(suite.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = block.subn(partial(_replaced, content), text)
        found += count
    if not found:
        raise UserError(f"{document} has no block <!-- board: {suite.name} --> ... <!-- end -->")
    write_atomically(document, text.encode())


def read_board(boards: Path, suite: Suite) -> tuple[dict[str, Result], Rulings]:
    """Return the results of a board by key, and what was decided about it."""
    folder = boards / suite.name
    return read_results(folder / "results.jsonl"), current_rulings(read_history(folder))


def rebuild_board(folder: Path, suite: Suite, results: Mapping[str, Result]) -> list[Board]:
    """Rank a board's results under the decisions in its history, and write every generated file; returns the boards."""
    boards = rank_results(suite, results.values(), current_rulings(read_history(folder)))
    publish_board(folder, suite, boards)
    write_index(folder.parent)
    return boards


def rebuild_own_board(suite: Suite, records: SuiteRecords, choice: RecordChoice = "both") -> list[Board]:
    """Rank the user's own results, beside the published ones or alone, and write the files of the own board."""
    results = records.choose(choice)
    boards = rank_results(suite, results.values(), records.rulings)
    origin = "Your own results, from `results.jsonl`."
    if choice == "both":
        boards = mark_records(boards, results.values(), records.own)
        origin = "Your own results, from `results.jsonl` (*yours*), beside the published ones."
    publish_board(records.own_folder, suite, boards, origin)
    return boards


def label_result(selection: Selection, cell: Cell, result: Result) -> Result:
    """Return a result with the names that this suite gives its parts."""
    names = dict(vars(cell_labels(selection, cell)))
    if result.chosen:
        chains = [trial.cell.chain for trial in cell.trials]
        labels = {chain_text(chain): chain_label_in_suite(selection.suite, chain) for chain in chains}
        labels |= {chain_label(chain): chain_label_in_suite(selection.suite, chain) for chain in chains}  # older stores
        names |= {"chosen": labels[result.chosen]}
        names |= {"trials": {labels[name]: accuracy for name, accuracy in result.trials.items()}}
    return structs.replace(result, suite=selection.suite.name, parameters=cell.parameters, **names)
