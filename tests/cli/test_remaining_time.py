"""The time left of a run: from the work of unfinished jobs and the speed of this run alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.cli.test_progress import cells  # noqa: F401  (a fixture)
from tests.submission.factory import results
from uebench.cli.progress import Bars, Lines
from uebench.cli.remaining_time import RemainingTime
from uebench.executors.messages import Failed, RunOutline, StepReport
from uebench.planning.plan import Cell


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_from_the_work_left_and_the_speed_of_this_run() -> None:
    clock = Clock()
    remaining = RemainingTime({"short": 10, "long": 90, "later": 100}, clock)
    assert remaining.seconds() is None
    remaining.start("short")
    clock.now += 1000  # worker processes start
    remaining.progress("short", 0.0)
    clock.now += 5
    remaining.end("short")  # 10 in 5 seconds
    assert remaining.seconds() == pytest.approx(190 / 2)
    remaining.start("long")
    remaining.progress("long", 0.0)
    clock.now += 15
    remaining.progress("long", 1 / 3)  # 40 in 20 seconds
    assert remaining.seconds() == pytest.approx(160 / 2)
    assert remaining.text() == "0:01:20"


def test_what_an_earlier_run_did_is_no_speed() -> None:
    clock = Clock()
    remaining = RemainingTime({"resumed": 100}, clock)
    remaining.end("finished before")  # no work of this run
    remaining.start("resumed")
    remaining.progress("resumed", 0.9)  # goes on from a checkpoint
    assert remaining.seconds() is None
    clock.now += 10
    remaining.progress("resumed", 0.92)  # 2 in 10 seconds, 8 left
    assert remaining.seconds() == pytest.approx(40)


def test_jobs_side_by_side_are_one_speed_and_a_failed_job_is_no_work_left() -> None:
    clock = Clock()
    remaining = RemainingTime({"a": 50, "b": 50, "c": 50, "d": 50}, clock)
    remaining.start("d")
    remaining.end("d")  # no report, so nothing is known of its speed
    assert remaining.seconds() is None
    for key in ("a", "b"):
        remaining.start(key)
        remaining.progress(key, 0.0)
    clock.now += 10
    remaining.progress("a", 0.5)
    remaining.progress("b", 0.5)
    assert remaining.seconds() == pytest.approx(100 / 5)
    remaining.end("c")  # skipped, as a job that it needs failed
    assert remaining.seconds() == pytest.approx(50 / 5)


@pytest.mark.parametrize("kind", [Bars, Lines])
def test_a_run_shows_the_time_left_of_all_cells(
    kind: type[Lines],
    cells: list[Cell],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=kind is Bars, color_system=None)
    names = {cell.key: f"cell {index}" for index, cell in enumerate(cells)}
    clock = Clock()
    monkeypatch.setattr(RemainingTime.__init__, "__defaults__", (clock,))
    listener = kind(console, RunOutline(names, len(cells), {cell.key: 10.0 for cell in cells[1:]}))
    (result, *_) = results("em")
    listener.finished(cells[0], result)  # finished before
    listener.started(cells[1])
    listener.progressed(cells[1], StepReport(0, 10, None))
    clock.now += 60
    listener.finished(cells[1], result)
    listener.failed(cells[2], Failed("broken"))
    minutes = len(cells) - 3
    if isinstance(listener, Bars):
        console.print(listener.progress.get_renderable())
        assert f"0:{minutes:02}:00" in output.getvalue()
    else:
        assert f"about 0:{minutes + 1:02}:00 left" in output.getvalue()
