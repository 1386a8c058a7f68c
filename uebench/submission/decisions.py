"""What maintainers decide: takes a bundle onto its board, or an entry's rank away, and writes both into the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.board.publish import read_board, rebuild_board
from uebench.board.ranking import Board, rank_results
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.planning.suite import Suite, read_suite
from uebench.storage.history import BoardValue, Rulings, append_decision, current_rulings, read_history
from uebench.storage.result import Result
from uebench.storage.results_file import merge_results, write_results
from uebench.storage.store import Store
from uebench.storage.strict_json import check_printable
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.verify import Say, VerificationReport, VerificationSettings

REASON_LENGTH = 300
"""Characters of the reason of a withdrawal."""


def accept_entry(judged: VerificationReport, desk: VerificationSettings, say: Say) -> None:
    """Take a judged bundle onto its board; references that are on the board stay as they are.

    A bundle is accepted again only with another badge. Raises `UserError` for that, for a bundle that brings nothing,
    and where other numbers of its own cells are on record.
    """
    found, suite, made = judged.found, judged.suite, judged.made
    with desk.machine.open().lock(f"board-{suite.name}", wait=True):
        board, rulings = read_board(desk.boards, suite)
        if rulings.bundles.get(found.sha256) == judged.badge:
            raise UserError(f"this bundle was accepted before, as {judged.badge}")
        check_bundle(found, suite, board, rulings, datetime.now(UTC))  # others may have decided meanwhile
        fresh = [result for result in found.results if made.own(result) or result.key not in board]
        merged, conflicts = merge_results(board, fresh)
        if conflicts:
            raise UserError(f"other numbers are on record, and nothing is averaged: {conflicts[0]}")
        if not made.breaker and found.sha256 not in rulings.bundles and len(merged) == len(board):
            raise UserError("all its results are on record; there is nothing to accept")
        write_results(desk.boards / suite.name / "results.jsonl", merged)
        content = {
            "bundle": found.sha256,
            "submitter": found.manifest["submitter"]["name"],
            "paper": found.manifest["submitter"]["paper"],
            "dataset": made.dataset,
            "noises": list(made.noises),
            "breaker": made.breaker,
            "badge": judged.badge,
            "rerun": judged.again,
        }
        _decide(desk.boards, suite, board, merged, "accepted", content, say)


def withdraw_entry(suite: str, noise: str, reason: str, store: Store, boards: Path, say: Say) -> None:
    """Take the rank of a noise on a board, given by its label or canonical text; its row stays, with the reason."""
    chosen = read_suite(suite)
    if not check_printable(reason, "the reason", REASON_LENGTH).strip():
        raise UserError("a withdrawal needs a reason")
    with store.lock(f"board-{chosen.name}", wait=True):
        board, rulings = read_board(boards, chosen)
        content = {"noise": _listed(chosen, board, rulings, noise), "reason": reason}
        _decide(boards, chosen, board, board, "withdrawn", content, say)


def _listed(suite: Suite, board: Mapping[str, Result], rulings: Rulings, noise: str) -> str:
    names = {result.parameters["noise"]: result.noise for result in board.values() if result.noise != "none"}
    called = [text for text, name in names.items() if noise in (text, name)]
    found = [text for text in called if text not in rulings.withdrawn]
    if called and not found:
        raise UserError(f"noise {names[called[0]]} is withdrawn already: {rulings.withdrawn[called[0]]}")
    if not found:
        raise UserError(f"suite {suite.name} lists no noise {noise!r}{nearest_match(noise, names.values())}")
    if len(found) > 1:
        raise UserError(f"{noise!r} is the name of several noises; say which: {'; '.join(sorted(found))}")
    return found[0]


def _decide(
    boards: Path,
    suite: Suite,
    before: Mapping[str, Result],
    after: Mapping[str, Result],
    event: str,
    content: Mapping[str, Any],
    say: Say,
) -> None:
    """Write a decision into the history, with what it changes, and rebuild the board."""
    folder, date = boards / suite.name, datetime.now(UTC).isoformat(timespec="seconds")
    lines = read_history(folder)
    old = rank_results(suite, before.values(), current_rulings(lines))
    new = rank_results(suite, after.values(), current_rulings([*lines, {"event": event, "date": date, **content}]))
    changes = _changes(old, new)
    append_decision(folder, event, date, changes, **content)
    rebuild_board(folder, suite, after)
    names = {result.parameters["noise"]: result.noise for result in after.values()}
    for change in changes:
        say(f"changed   {names[change['noise']]}: {_value(change['old'])} -> {_value(change['new'])}")
    say(f"Board: {folder / 'README.md'}")


def _changes(before: Sequence[Board], after: Sequence[Board]) -> list[dict[str, Any]]:
    """Return old and new value of every noise whose status, residual protection or worst breaker is another."""
    old, new = ({key: value for board in boards for key, value in _values(board)} for boards in (before, after))
    return [
        {"board": title, "noise": noise, "old": old.get((title, noise)), "new": value}
        for (title, noise), value in new.items()
        if old.get((title, noise)) != value
    ]


def _values(board: Board) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    rows = board.noises.astype(object).where(board.noises.notna(), None).to_dict("records")
    names = BoardValue.__struct_fields__
    return [((board.title, row["parameters"]), {name: row[name] for name in names}) for row in rows]


def _value(value: Mapping[str, Any] | None) -> str:
    if value is None or value["status"] == "reference":
        return "not listed" if value is None else "reference"
    protection = value["residual_protection"]
    number = "" if protection is None else f", {100 * protection:.1f} ({value['worst_breaker']})"
    return f"{value['status']}{number}"
