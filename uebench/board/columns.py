"""The columns of a board: each has a key, a meaning, and its text in tables.

A new column is a field of the row and one entry here; every table, file and page uses this list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd

from uebench.board.ranking import Board
from uebench.board.rows import BreakerRow, NoiseRow, SeedMean
from uebench.board.standings import SEEDS

Row = TypeVar("Row", NoiseRow, BreakerRow)
UNKNOWN = "–"
"""An unknown value in tables for people."""
DATA_DIGITS = 6
"""Decimals of a number in files for programs."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column: `key` is the field of the row and the name in files, `meaning` one line for readers.

    `header` and `text` are for tables that people read; a column without a header is only in files. Brief tables omit
    `detail` columns.
    """

    key: str
    meaning: str
    header: str = ""
    text: Callable[[Row], str] = lambda row: ""
    detail: bool = False


def percent(value: float | None, deviation: float | None = None) -> str:
    """Write a share in percent, with its standard deviation where it is known."""
    if value is None:
        return UNKNOWN
    return f"{100 * value:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def percent_mean(mean: SeedMean | None) -> str:
    """Write a mean over seeds in percent."""
    return percent(mean.mean, mean.deviation) if mean else UNKNOWN


def percent_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Write a share in percent with the bounds of its interval."""
    known = low is not None and high is not None
    return percent(value) + (f" [{100 * low:.1f}, {100 * high:.1f}]" if known else "")  # type: ignore[operator]


def decimal(value: float | None, digits: int) -> str:
    """Write a number with a fixed number of decimals."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def range_text(low: Any, high: Any) -> str:
    """Write the first and the last of a range, or the value if they are equal."""
    return f"{low}" if low == high else f"{low} to {high}"


def rank_text(row: NoiseRow) -> str:
    """Write the rank of a noise, in parentheses if it is provisional."""
    if row.rank is None:
        return UNKNOWN
    return str(row.rank) if row.status == "ranked" else f"({row.rank})"


def residual_text(row: NoiseRow) -> str:
    """Write the residual protection of a noise, with its interval if it has seeds enough for a rank."""
    if row.seeds < SEEDS:
        return percent(row.residual_protection)
    return percent_interval(row.residual_protection, row.residual_low, row.residual_high)


def _rank_set_text(row: NoiseRow) -> str:
    return UNKNOWN if row.rank_low is None else range_text(row.rank_low, row.rank_high)


def _unless_reference(text: Callable[[NoiseRow], str]) -> Callable[[NoiseRow], str]:
    """Return a text function that gives `UNKNOWN` for the clean reference."""
    return lambda row: UNKNOWN if row.status == "reference" else text(row)


def _best_known_text(row: NoiseRow) -> str:
    if row.residual_best_known is None:
        return UNKNOWN
    return f"{percent(row.residual_best_known)} ({row.best_known_breaker})"


def noise_remarks(row: NoiseRow) -> list[str]:
    """Return the remarks on a noise: status, missing cells, ruling and flags."""
    status = row.status if row.status in ("reference", "provisional") else ""
    lacks = f"unranked, lacks {row.lacks}" if row.status == "unranked" else ""
    ruling = f"withdrawn: {row.ruling}" if row.status == "withdrawn" else row.ruling
    record = "yours" if row.record in ("own", "both") else ""
    return [*filter(None, [record, status, lacks, ruling]), *row.flags]


def _breaker_remarks(row: BreakerRow) -> str:
    chosen = f"chose {row.chosen}" if row.chosen else ""
    lacks = f"unranked, lacks {row.lacks}" if row.lacks else ""
    return ", ".join([*filter(None, ["required" if row.required else "", chosen, lacks]), *row.flags])


NOISE_COLUMNS: Sequence[Column[NoiseRow]] = (
    Column("rank", "rank by residual protection within the budget class", "rank", rank_text),
    Column("noise", "the suite's name for the noise", "noise", lambda row: row.noise),
    Column(
        "rank_low",
        "best rank that the seeds allow: all rank sets of a class hold the true ranks with 95 % probability",
        "rank set",
        _rank_set_text,
    ),
    Column("rank_high", "worst rank that the seeds allow"),
    Column("status", "ranked, provisional (few seeds), unranked (a required cell is missing), withdrawn, or reference"),
    Column(
        "residual_protection",
        "plain clean accuracy minus the highest accuracy under a required breaker",
        "residual, required",
        _unless_reference(residual_text),
    ),
    Column("residual_low", "lower bound of its 95 % interval over seeds"),
    Column("residual_high", "upper bound of its 95 % interval over seeds"),
    Column("worst_breaker", "the required breaker that recovers most"),
    Column(
        "residual_best_known",
        "plain clean accuracy minus the highest accuracy under any breaker on the board, required or not",
        "residual, best known",
        _unless_reference(_best_known_text),
    ),
    Column("best_known_breaker", "the breaker that recovers most of all on the board"),
    Column("best_known_since", "day on which that breaker was first run against the noise"),
    Column(
        "same_breaker_gap",
        "clean minus protected accuracy under the same breaker, the smallest over required breakers that keep clean "
        "accuracy above the floor",
        "gap",
        _unless_reference(lambda row: percent(row.same_breaker_gap)),
    ),
    Column("gap_low", "lower bound of its 95 % interval over seeds"),
    Column("gap_high", "upper bound of its 95 % interval over seeds"),
    Column(
        "accuracies",
        "by breaker: accuracy on clean test images at the last step; mean, standard deviation and number of seeds",
    ),
    Column("seeds", "number of seeds that all required cells share", "seeds", lambda row: str(row.seeds)),
    Column("budget", "budget class, as measured on the released 8-bit images"),
    Column(
        "noise_linf",
        "largest change of a pixel, in [0, 1]",
        "L-inf",
        lambda row: f"{row.noise_linf * 255:.0f}/255",
        detail=True,
    ),
    Column("noise_l2", "L2 norm of the noise of one image, mean over images"),
    Column("psnr", "peak signal-to-noise ratio in dB", "PSNR", lambda row: decimal(row.psnr, 1), detail=True),
    Column("ssim", "structural similarity", "SSIM", lambda row: decimal(row.ssim, 3), detail=True),
    Column("separability_noise", "accuracy of a linear classifier on held-out noise, from the noise alone"),
    Column(
        "separability_released",
        "accuracy of a linear classifier on held-out released images; if it is high, anybody can detect the noise",
    ),
    Column(
        "noise_seconds",
        "time to make the noise, median over cells",
        "noise s",
        lambda row: decimal(row.noise_seconds, 0),
    ),
    Column("train_seconds", "time to train one target, median over cells"),
    Column("peak_bytes", "peak memory of the device while training, mean over cells"),
    Column(
        "targets",
        "by target: accuracy under the required breaker that recovers most; mean, standard deviation, number of seeds",
    ),
    Column("device", "device on which it was run"),
    Column("flags", "warnings computed from the results; `flags` has their meaning"),
    Column("lacks", "required cells that are missing"),
    Column("ruling", "maintainers' ruling: badge and breakers accepted against it, or the reason of its withdrawal"),
    Column("record", "whose results the row has: own, published or both; empty on a board of one record"),
    Column("parameters", "the noise's canonical text: name, version, every parameter"),
)
"""The columns of noises, in the order of every table."""

BREAKER_COLUMNS: Sequence[Column[BreakerRow]] = (
    Column(
        "rank",
        "rank by the accuracy that it recovers",
        "rank",
        lambda row: UNKNOWN if row.rank is None else str(row.rank),
    ),
    Column("breaker", "the suite's name for the breaker", "breaker", lambda row: row.breaker),
    Column(
        "recovered",
        "mean accuracy over all ranked noises",
        "recovered",
        lambda row: percent_interval(row.recovered, row.recovered_low, row.recovered_high),
    ),
    Column("recovered_low", "lower bound of its 95 % interval over seeds"),
    Column("recovered_high", "upper bound of its 95 % interval over seeds"),
    Column("lowest", "the lowest accuracy over ranked noises", "lowest", lambda row: percent(row.lowest)),
    Column(
        "clean_accuracy",
        "accuracy on the clean set under it",
        "on clean images",
        lambda row: percent(row.clean_accuracy),
    ),
    Column(
        "train_seconds",
        "time to train one target, median over cells",
        "training s",
        lambda row: decimal(row.train_seconds, 0),
    ),
    Column(
        "threat",
        "threat class: what the trainer must have besides the released images; unknown if the breaker is not installed",
        "threat class",
        lambda row: row.threat or UNKNOWN,
    ),
    Column("year", "year of the paper, of a chain the latest; unknown if none is stated"),
    Column("required", "whether every ranked entry needs it"),
    Column("chosen", "for a breaker that chooses among others: which it chose, and in how many cells"),
    Column("flags", "warnings computed from the results"),
    Column("lacks", "cells of ranked noises that are missing"),
    Column("parameters", "the breaker's canonical text", "remarks", _breaker_remarks),
)
"""The columns of breakers, in the order of every table."""


def breaker_names(board: Board, required: bool) -> list[str]:
    """Return the breakers with accuracies on a board, only the required ones or all, the required ones first."""
    required_names = {row.breaker for row in board.breakers if row.required}
    names = dict.fromkeys(name for row in board.noises for name in row.accuracies)
    return sorted(
        (name for name in names if name in required_names or not required), key=lambda name: name not in required_names
    )


def noise_frame(board: Board) -> pd.DataFrame:
    """Return the noises of a board for files, with two columns for each breaker and target."""
    names, rows = breaker_names(board, required=False), []
    for row in board.noises:
        cells = dict[str, Any]()
        for column in NOISE_COLUMNS:
            if column.key == "accuracies":
                cells |= _mean_columns(row.accuracies, names, "accuracy", "deviation")
            elif column.key == "targets":
                cells |= _mean_columns(row.targets, list(board.targets), "target", "target-deviation")
            else:
                cells[column.key] = _file_value(getattr(row, column.key))
        rows.append(cells)
    return _with_integers(pd.DataFrame(rows))


def breaker_frame(board: Board) -> pd.DataFrame:
    """Return the breakers of a board for files."""
    rows = [{column.key: _file_value(getattr(row, column.key)) for column in BREAKER_COLUMNS} for row in board.breakers]
    return _with_integers(pd.DataFrame(rows))


def _mean_columns(
    means: Mapping[str, SeedMean], names: Sequence[str], mean_prefix: str, deviation_prefix: str
) -> dict[str, Any]:
    """Return mean and deviation for each name, by column name; None where they are unknown."""
    cells = dict[str, Any]()
    for name in names:
        mean = means.get(name)
        cells |= {f"{mean_prefix} {name}": mean and mean.mean, f"{deviation_prefix} {name}": mean and mean.deviation}
    return cells


def _file_value(value: Any) -> Any:
    """Return a value as a cell of a file: a tuple becomes text."""
    return ", ".join(value) if isinstance(value, tuple) else value


def _with_integers(frame: pd.DataFrame) -> pd.DataFrame:
    """Make ranks and years integers even where some are unknown."""
    for name in ("rank", "rank_low", "rank_high", "year"):
        if name in frame:
            frame[name] = frame[name].astype("Int64")
    return frame


def row_values(row: NoiseRow | BreakerRow) -> dict[str, Any]:
    """Return a row as JSON values: None if unknown, six decimals, flags as a list."""
    columns: Sequence[Column[Any]] = NOISE_COLUMNS if isinstance(row, NoiseRow) else BREAKER_COLUMNS
    return {column.key: _json_value(getattr(row, column.key)) for column in columns}


def board_document(board: Board) -> dict[str, Any]:
    """Return a board for JSON, its rows with the columns of its CSV files."""
    return {
        "title": board.title,
        "noises": [row_values(row) for row in board.noises],
        "breakers": [row_values(row) for row in board.breakers],
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, SeedMean):
        return {name: _json_value(inner) for name, inner in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _json_value(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return round(value, DATA_DIGITS) if math.isfinite(value) else None
    return value
