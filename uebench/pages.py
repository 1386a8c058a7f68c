"""Writes a board's files: `noises.csv`, `breakers.csv`, `README.md`, and the table inside another document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from uebench.api import UserError
from uebench.leaderboard import Board
from uebench.store import write_whole
from uebench.suite import Suite

READING = """\
**Residual protection** ranks the noises: accuracy of plain training on clean images minus the highest accuracy that any
required breaker reaches on the protected ones, in points. **Gap** is the clean accuracy under a breaker minus the
protected accuracy under the same breaker, the smallest over required breakers. Accuracies are those of the
last step on the clean test set, in percent, mean ± standard deviation over seeds. Fewer than three seeds make an entry
*provisional*. PSNR and SSIM are measured on the released 8-bit images.
"""


def _percent(value: object, deviation: object = None) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    spread = "" if deviation is None or pd.isna(deviation) else f" ± {100 * deviation:.1f}"  # type: ignore[call-overload, operator]
    return f"{100 * value:.1f}{spread}"  # type: ignore[operator]


def _number(value: object, digits: int) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"  # type: ignore[call-overload]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown; the outer columns to the left, the numbers to the right."""
    marks = ["---:" if 2 <= place < len(head) - 1 else "---" for place in range(len(head))]
    lines = [[cell.replace("|", "\\|") or " " for cell in row] for row in (head, marks, *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in LaTeX, for booktabs."""
    return str(pd.DataFrame(rows, columns=list(head)).to_latex(index=False, escape=True))


FILES = ("noises.csv", "breakers.csv", "README.md")
"""What `publish` writes."""
GALLERY = "gallery"
"""The folder of pictures; they come with the noises and are no part of the record."""
VISIBILITY = ["L-inf", "PSNR", "SSIM"]


def table(board: Board, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of noises, as people read it; the brief one leaves out their visibility.

    Breakers that a rank does not need stand in parentheses.
    """
    required = set(board.breakers[board.breakers["required"]]["breaker"])
    breakers = [name.removeprefix("accuracy ") for name in map(str, board.noises) if name.startswith("accuracy ")]
    breakers.sort(key=lambda name: name not in required)
    shown = [name if name in required else f"({name})" for name in breakers]
    head = ["rank", "noise", "residual", "gap", *shown, "seeds", *VISIBILITY, "noise s", "remarks"]
    budgets = board.noises[board.noises["status"] != "reference"]["budget"].nunique()
    rows = []
    for row in board.noises.to_dict("records"):
        rank = {"ranked": row["rank"], "provisional": f"({row['rank']})"}.get(row["status"], "–")
        lacks = f"unranked, lacks {row['lacks']}" if row["status"] == "unranked" else ""
        remarks = [row["status"] if row["status"] != "ranked" and not lacks else "", lacks, row["flags"]]
        reference = row["status"] == "reference"
        rows.append(
            [
                str(rank),
                row["noise"],
                "–" if reference else _percent(row["residual_protection"]),
                "–" if reference else _percent(row["same_breaker_gap"]),
                *(_percent(row.get(f"accuracy {name}"), row.get(f"deviation {name}")) for name in breakers),
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


def breaker_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of breakers."""
    head = ["rank", "breaker", "recovered", "lowest", "on clean images", "training s", "remarks"]
    rows = []
    for row in board.breakers.to_dict("records"):
        lacks = f"unranked, lacks {row['lacks']}" if row["lacks"] else ""
        rows.append(
            [
                "–" if pd.isna(row["rank"]) else str(row["rank"]),
                row["breaker"],
                _percent(row["recovered"]),
                _percent(row["lowest"]),
                _percent(row["clean_accuracy"]),
                _number(row["train_seconds"], 0),
                ", ".join(filter(None, ["required" if row["required"] else "", lacks])),
            ]
        )
    return head, rows


def hang(folder: Path, galleries: Mapping[str, bytes]) -> None:
    """Write pictures of noises, by name, into a board's gallery."""
    for name, content in galleries.items():
        write_whole(folder / GALLERY / f"{re.sub(r'[^a-z0-9.=-]+', '_', name)}.png", content)


def publish(folder: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Write every generated file of a board's folder; its page shows the pictures that hang in its gallery."""
    for name in ("noises", "breakers"):
        tables = [getattr(board, name).assign(board=board.title) for board in boards]
        text = pd.concat(tables).to_csv(index=False, float_format="%.6f") if tables else ""
        write_whole(folder / f"{name}.csv", text.encode())
    parts = [
        f"# {suite.title}\n\nSuite `{suite.name}`. Generated by `uebench rank {suite.name}` from `results.jsonl`.\n"
    ]
    parts.append(READING)
    for board in boards:
        parts += [f"## {board.title}\n", markdown(*table(board))]
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
    rows = [[f"[{name}]({name}/README.md)", title] for name, title in zip(names, titles, strict=True)]
    head = "# Leaderboards\n\nGenerated; one folder a suite, each with its record, `results.jsonl`.\n\n"
    write_whole(boards / "README.md", (head + markdown(["suite", "what it is"], rows)).encode())


def insert(document: Path, suite: Suite, boards: Sequence[Board]) -> None:
    """Replace the block between `<!-- board: SUITE -->` and `<!-- end -->` in a document; raises `UserError`."""
    try:
        text = document.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {error}") from None
    block = re.compile(rf"(<!-- board: {re.escape(suite.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    tables = "\n".join(markdown(*table(board)) for board in boards)
    if not block.search(text):
        raise UserError(f"{document} has no block <!-- board: {suite.name} --> ... <!-- end -->")
    write_whole(document, block.sub(lambda found: found[1] + tables + found[2], text).encode())
