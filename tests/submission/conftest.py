"""Fixtures of the tests of submissions: results of a noise, a board, and calls of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.submission.factory import (
    contents,
    put_on_board,
    results,
)
from uebench.cli.main import main
from uebench.storage.result import Result


@pytest.fixture(scope="module")
def em() -> list[Result]:
    return results("em")


@pytest.fixture
def references(em: list[Result]) -> list[Result]:
    return [one for one in em if one.noise == "none"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call a command in the folder of the test; returns what it printed, after checking the status."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done.output

    return command


@pytest.fixture
def refuse(call: Callable[..., str], tmp_path: Path) -> Callable[..., None]:
    """Call a command that must refuse, in one line behind what it told so far, and change nothing but the store."""

    def kept() -> dict[Path, bytes]:
        return {path: text for path, text in contents(tmp_path).items() if ".uebench" not in path.parts}

    def command(*words: str, expected: str, told: bool = False) -> None:
        before = kept()
        *others, line = call(*words, status=2).splitlines()
        assert bool(others) == told, others
        assert line.startswith("Error: ")
        assert expected in line
        assert line.isprintable()
        assert kept() == before

    return command


@pytest.fixture
def listed(em: list[Result], tmp_path: Path) -> Path:
    """Return the folder of a board with em and rem."""
    return put_on_board(tmp_path / "leaderboards", [*em, *results("rem")])
