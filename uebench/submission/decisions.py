"""`uebench accept` and `uebench withdraw`: a maintainer's decisions, written into the board and into its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.board.publish import read_board, rebuild_board
from uebench.board.ranking import Board, rank_results
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.history import BoardValue, Rulings, append_decision, current_rulings, read_history
from uebench.storage.result import Result
from uebench.storage.results_file import merge_results, write_results
from uebench.storage.store import Store
from uebench.storage.strict_json import check_printable
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.entry import find_obstacle, new_results
from uebench.submission.reports import BoardUpdate, RowChange, VerificationReport
from uebench.submission.verify import VerificationSettings

REASON_LENGTH = 300
"""Most characters that the reason of a withdrawal may have."""


def accept_entry(report: VerificationReport, settings: VerificationSettings) -> BoardUpdate:
    """Add the results of a verified bundle to its board; references that are on the board stay unchanged.

    A bundle is accepted again only with another badge. Raises `UserError` where it was accepted before, where it holds
    nothing new, and where the board has other numbers for the entry's own cells.
    """
    bundle, suite, entry = report.bundle, report.suite, report.entry
    with settings.execution.open_store().lock(f"board-{suite.name}", wait=True):
        board, rulings = read_board(settings.boards, suite)
        check_bundle(bundle, suite, board, rulings, datetime.now(UTC))  # the board may have changed since `verify`
        if obstacle := find_obstacle(bundle, entry, board, rulings, report.badge):
            raise UserError(obstacle)
        merged, _ = merge_results(board, new_results(bundle, entry, board))
        write_results(settings.boards / suite.name / "results.jsonl", merged)
        content = {
            "bundle": bundle.sha256,
            "submitter": bundle.manifest["submitter"]["name"],
            "paper": bundle.manifest["submitter"]["paper"],
            "dataset": entry.dataset,
            "noises": list(entry.noises),
            "breaker": entry.breaker,
            "badge": report.badge,
            "rerun": report.rerun.history_fields if report.rerun else None,
        }
        return _decide(settings.boards, suite, board, merged, "accepted", content)


def withdraw_entry(suite_name: str, noise: str, reason: str, store: Store, boards: Path) -> BoardUpdate:
    """Take the rank of a noise, given by label or canonical text; its row stays on the board, with the reason.

    Raises `UserError` for a noise that the board does not list, or that is withdrawn already.
    """
    suite = read_suite(suite_name)
    if not check_printable(reason, "the reason", REASON_LENGTH).strip():
        raise UserError("a withdrawal needs a reason")
    with store.lock(f"board-{suite.name}", wait=True):
        board, rulings = read_board(boards, suite)
        content = {"noise": _find_noise(suite, board, rulings, noise), "reason": reason}
        return _decide(boards, suite, board, board, "withdrawn", content)


def _find_noise(suite: Suite, board: Mapping[str, Result], rulings: Rulings, noise: str) -> str:
    """Return the canonical text of a noise on a board, given by label or canonical text."""
    labels = {result.parameters["noise"]: result.noise for result in board.values() if result.noise != "none"}
    matches = [text for text, label in labels.items() if noise in (text, label)]
    ranked = [text for text in matches if text not in rulings.withdrawn]
    if matches and not ranked:
        raise UserError(f"noise {labels[matches[0]]} is withdrawn already: {rulings.withdrawn[matches[0]]}")
    if not ranked:
        raise UserError(f"suite {suite.name} lists no noise {noise!r}{nearest_match(noise, labels.values())}")
    if len(ranked) > 1:
        raise UserError(f"{noise!r} is the name of several noises; say which: {'; '.join(sorted(ranked))}")
    return ranked[0]


def _decide(
    boards: Path,
    suite: Suite,
    before: Mapping[str, Result],
    after: Mapping[str, Result],
    event: str,
    content: Mapping[str, Any],
) -> BoardUpdate:
    """Write a decision and its consequences into the history, and rebuild the board."""
    folder, date = boards / suite.name, datetime.now(UTC).isoformat(timespec="seconds")
    events = read_history(folder)
    old = rank_results(suite, before.values(), current_rulings(events))
    new = rank_results(suite, after.values(), current_rulings([*events, {"event": event, "date": date, **content}]))
    changes = _changes(old, new)
    append_decision(folder, event, date, changes, **content)
    rebuild_board(folder, suite, after)
    labels = {result.parameters["noise"]: result.noise for result in after.values()}
    return BoardUpdate(folder, [RowChange(labels[change["noise"]], change["old"], change["new"]) for change in changes])


def _changes(before: Sequence[Board], after: Sequence[Board]) -> list[dict[str, Any]]:
    """Return old and new value of every noise whose status, residual protection or worst breaker changed."""
    old, new = ({key: value for board in boards for key, value in _values(board)} for boards in (before, after))
    return [
        {"board": title, "noise": noise, "old": old.get((title, noise)), "new": value}
        for (title, noise), value in new.items()
        if old.get((title, noise)) != value
    ]


def _values(board: Board) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    names = BoardValue.__struct_fields__
    return [((board.title, row.parameters), {name: getattr(row, name) for name in names}) for row in board.noises]
