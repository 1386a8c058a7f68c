"""Writes a board's files: `noises.csv`, `.tex`, `breakers.csv`, `README.md`, and its tables in other documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from msgspec import structs

from uebench.board.columns import DATA_DIGITS, breaker_frame, breaker_names, noise_frame
from uebench.board.formats import csv_table, escape_markdown, latex_table, markdown_grid, markdown_table
from uebench.board.headline import headline
from uebench.board.heat_map import board_heat_map
from uebench.board.next_breaker import breaker_dependence
from uebench.board.ranking import Board, rank_results
from uebench.board.records import RecordChoice, SuiteRecords, mark_records
from uebench.board.tables import (
    breaker_matrix,
    breaker_table,
    next_breaker_sentence,
    next_breaker_table,
    noise_table,
    recipe_table,
    target_table,
)
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
NEXT_BREAKER_TEXT = """\
**The next breaker.** How much do residuals and ranks depend on the list of breakers? The first columns have the
residual of each noise against every breaker on the board, and the rank by it. The next columns have both without the
breaker that recovers most, and the ranks that the noise can have when any one breaker is left out. The last column is
a lower bound for the residual after one more breaker. It holds with 90 % probability for each noise alone, if the next
breaker is of the same kind as those on the board. A breaker with a new idea can recover more, and several variants of
one breaker on the board make the bound too optimistic.
"""
RECIPES_TEXT = """\
How alike two recipes order the noises that both were run on: Kendall's tau is 1 for equal orders and -1 for reversed
ones. A recipe is also compared with itself, one seed with another, and tau is the mean over pairs of seeds: it shows
how much of an order is chance. The times are those of training one network.
"""
INDEX_TEXT = """\
# Leaderboards

This list is generated. Each suite has a folder with its record, `results.jsonl`, which has one line for each trained
network. All other files but `history.jsonl` and the gallery are generated from the record.

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
`uebench verify`, which imports nothing from it, and `uebench accept`. Badges say how far an entry was checked:
*claimed* (handed in), *valid* (complete, unchanged, plausible, references as on the board), *re-run* (the maintainer
ran a random sample of its cells again and got the same accuracies). No badge: run by the maintainers. Two accuracies of
a cell are the same when they differ by at most three standard deviations of the difference between two runs,
sqrt(2 (s² + p (1 - p) / n)): s is the deviation over the cell's seeds, p their mean, n the number of test images.

## Disputes and withdrawals

If you doubt a number, run its cell again, or hand in a breaker that recovers more. Different numbers for one cell are
never averaged: those on record stay until the reason is known. An entry that proves wrong is withdrawn with the reason;
it keeps its row and loses its rank. `history.jsonl` has every decision with its date and the values before and after
it; its lines are never changed. A corrected noise is handed in with a raised version.

## What is found, and what is not

These are flagged or refused:

- a breaker that changes nothing, and one that destroys clean accuracy
- results that are those of another noise, number for number
- seeds that somebody chose; too few seeds make an entry provisional
- a noise that exceeds its budget in 8 bits, when it is made; in a bundle, an L-inf norm over the budget
- references in a bundle that differ from those on the board
- a class of blank images, and a noise that a linear classifier detects: only in noises that were made since records
  have these measurements

A noise is lent no test image, and a breaker neither the noise nor its name.

These cannot be found from numbers alone:

- results that were made up with care; a re-run by the maintainers finds them
- a copy whose numbers were changed a little; a re-run finds it
- in a bundle, an L2 or L0 norm over the budget; a re-run finds it
- settings of a noise that were chosen on test accuracy
- a plug-in that was written to get around these rules, for example by searching the memory of its process: read its
  code
"""


HEAT_MAP_FILE = "heat_map.svg"
GENERATED_FILES = ("noises.csv", "noises.tex", "breakers.csv", HEAT_MAP_FILE, "README.md")
"""The files that are generated from a board's record."""
GALLERY = "gallery"
"""The folder of pictures of noises, which are not part of the record."""


def picture_name(name: str) -> str:
    """Return the file name of a noise's picture in a board's gallery."""
    return f"{re.sub(r'[^a-z0-9.=-]+', '_', name)}.png"


def write_gallery(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Write pictures (PNG by noise name) into a board's gallery."""
    for name, content in pictures.items():
        write_atomically(folder / GALLERY / picture_name(name), content)


def download_files(boards: Sequence[Board]) -> dict[str, bytes]:
    """Return the content of `noises.csv`, `breakers.csv` and `noises.tex` by file name, all boards below each other."""
    files = {}
    for name, make_frame in (("noises", noise_frame), ("breakers", breaker_frame)):
        frames = [make_frame(board).assign(board=board.title) for board in boards]
        files[f"{name}.csv"] = (csv_table(pd.concat(frames), DATA_DIGITS) if frames else "").encode()
    # a title is a comment in LaTeX, so it must be one line
    latex = [f"% {' '.join(board.title.split())}\n{latex_table(*noise_table(board))}" for board in boards]
    files["noises.tex"] = "\n".join(latex).encode()
    return files


def publish_board(folder: Path, suite: Suite, boards: Sequence[Board], origin: str = "") -> None:
    """Write every generated file into a board's folder.

    `origin` says on the page which results the files come from, by default the record in the folder.
    """
    for name, content in download_files(boards).items():
        write_atomically(folder / name, content)
    heat_map = next((board for board in boards if len(breaker_names(board, required=False)) > 1), None)
    if heat_map:
        write_atomically(folder / HEAT_MAP_FILE, board_heat_map(heat_map))
    origin = origin or f"Generated by `uebench rank {suite.name}` from `results.jsonl`."
    paragraphs = _page_paragraphs(folder, suite, boards, bool(heat_map), origin)
    write_atomically(folder / "README.md", "\n".join(paragraphs).encode())


def _page_paragraphs(folder: Path, suite: Suite, boards: Sequence[Board], heat_map: bool, origin: str) -> Iterator[str]:
    """Yield the paragraphs of a board's page, with or without a heat map, and with the pictures of its gallery."""
    yield f"# {suite.title}\n\nSuite `{suite.name}`. {origin}\n"
    if sentences := [sentence for board in boards if (sentence := headline(board))]:
        yield "\n".join(sentences)
    if heat_map:
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
        if dependence := breaker_dependence(board):
            yield NEXT_BREAKER_TEXT
            yield f"{next_breaker_sentence(dependence)}\n"
            yield markdown_table(*next_breaker_table(dependence))
    agreements = recipe_table(boards)
    if agreements[1]:
        yield f"## Recipes\n\n{RECIPES_TEXT}"
        yield markdown_table(*agreements)
    pictures = sorted((folder / GALLERY).glob("*.png"))
    if pictures:
        yield "## Gallery\n\nAn image of each class, clean and protected, and the noise, amplified to the full range.\n"
        yield from (f"{path.stem}\n\n![{path.stem}]({GALLERY}/{path.name})\n" for path in pictures)


def write_index(boards: Path) -> None:
    """Write the list of all boards in a folder of boards."""
    pages = [page for page in sorted(boards.glob("*/README.md")) if page.with_name("results.jsonl").exists()]
    titles = [page.read_text("utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    names = [page.parent.name for page in pages]
    rows = [
        [f"[{name}]({name}/README.md)", title.replace("|", "\\|")] for name, title in zip(names, titles, strict=True)
    ]
    index = markdown_grid([["suite", "what it is"], *rows])
    write_atomically(boards / "README.md", (INDEX_TEXT + index + RULES_TEXT).encode())


def _replace_content(content: str, block: re.Match[str]) -> str:
    """Return a block with new content between its first and last line."""
    return block[1] + content + block[2]


BLOCKS = {"board": noise_table, "breakers": breaker_matrix, "targets": target_table}
"""The tables that a document may have for each board, between `<!-- NAME: SUITE -->` and `<!-- end -->`.

There are also the blocks `recipes` and `headline`, for all boards of a suite together.
"""


def insert_tables(document: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Replace the blocks of a suite in a document by its tables; raises `UserError` if it has no block."""
    try:
        text = document.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {error}") from None
    tables_by_block = {name: [make_table(board) for board in boards] for name, make_table in BLOCKS.items()}
    tables_by_block["recipes"] = [recipe_table(boards)]
    contents = {name: "\n".join(markdown_table(*table) for table in tables) for name, tables in tables_by_block.items()}
    contents["headline"] = "\n".join(headline(board) for board in boards)
    replaced = 0
    for name, content in contents.items():
        block = re.compile(rf"(<!-- {name}: {re.escape(suite.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = block.subn(partial(_replace_content, content), text)
        replaced += count
    if not replaced:
        raise UserError(f"{document} has no block <!-- board: {suite.name} --> ... <!-- end -->")
    write_atomically(document, text.encode())


def read_board(boards: Path, suite: Suite) -> tuple[dict[str, Result], Rulings]:
    """Return the results of a board by key, and the maintainers' rulings on it."""
    folder = boards / suite.name
    return read_results(folder / "results.jsonl"), current_rulings(read_history(folder))


def rebuild_board(folder: Path, suite: Suite, results: Mapping[str, Result]) -> list[Board]:
    """Rank a board's results under the rulings in its history, write every generated file and return the boards."""
    boards = rank_results(suite, results.values(), current_rulings(read_history(folder)))
    publish_board(folder, suite, boards)
    write_index(folder.parent)
    return boards


def rebuild_own_board(suite: Suite, records: SuiteRecords, choice: RecordChoice = "both") -> list[Board]:
    """Rank the user's own results, alone or together with the published ones, and write the files of the own board."""
    results = records.choose(choice)
    boards = rank_results(suite, results.values(), records.rulings)
    origin = "Your own results, from `results.jsonl`."
    if choice == "both":
        boards = mark_records(boards, results.values(), records.own)
        origin = "Your own results, from `results.jsonl` (*yours*), beside the published ones."
    publish_board(records.own_folder, suite, boards, origin)
    return boards


def label_result(selection: Selection, cell: Cell, result: Result) -> Result:
    """Return a result with the labels of this suite."""
    fields = dict(vars(cell_labels(selection, cell)))
    if result.chosen:
        chains = [trial.cell.chain for trial in cell.trials]
        labels = {chain_text(chain): chain_label_in_suite(selection.suite, chain) for chain in chains}
        labels |= {
            chain_label(chain): chain_label_in_suite(selection.suite, chain) for chain in chains
        }  # stores of older versions
        fields |= {"chosen": labels[result.chosen]}
        fields |= {"trials": {labels[chain]: accuracy for chain, accuracy in result.trials.items()}}
    return structs.replace(result, suite=selection.suite.name, parameters=cell.parameters, **fields)
