"""The bars of a run on a terminal of 80 columns."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from tests.submission.factory import SUITE, results
from uebench.cli.progress import Bars
from uebench.components.registry import registry
from uebench.executors.messages import RunOutline, StepReport
from uebench.planning.plan import Cell, plan_selection
from uebench.planning.selection import select_components


@pytest.fixture
def cells() -> list[Cell]:
    (selection,) = select_components(SUITE, noises=["em"], seeds=[0, 1, 2])
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    return list(plan_selection(cast(Any, selection), cast(Any, nothing), cast(Any, (plain,)), [""]).cells)


def test_no_line_is_wider_than_the_terminal_and_numbers_stay(cells: list[Cell]) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, color_system=None)
    long = "rem:radius=16/255,adv_radius=8/255 / lowpass-median+adv-linf:radius=8/255 on resnet18, seed 0"
    with Bars(console, RunOutline({cell.key: long for cell in cells}, len(cells))) as bars:
        bars.started(cells[0])
        bars.progressed(cells[0], StepReport(1234, 40000, 1.234))
        bars.progress.refresh()
        shown = console.render_lines(bars.progress.get_renderable(), pad=False)
    lines = ["".join(segment.text for segment in line) for line in shown]
    assert [len(line) <= 80 for line in lines] == [True, True]
    assert f"0/{len(cells)}" in lines[0]
    assert "1234/40000" in lines[1]
    assert "…" in lines[1]


def test_cells_of_an_earlier_run_are_no_speed(cells: list[Cell]) -> None:
    bars = Bars(
        Console(file=io.StringIO(), width=80, force_terminal=True),
        RunOutline({cell.key: "" for cell in cells}, len(cells), {cells[-1].key: 2.0}),
    )
    (result, *_) = results("em")
    for cell in cells[:-1]:
        bars.finished(cell, result)
    (task,) = bars.progress.tasks
    assert (task.completed, task.total) == (len(cells) - 1, len(cells))
    assert task.speed is None
    assert task.time_remaining is None
    bars.started(cells[-1])
    bars.finished(cells[-1], result)
    assert bars.progress.tasks[0].completed == len(cells)
