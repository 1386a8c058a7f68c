"""The command that a record is run again with: typed at the command line, it plans the very cells on record."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner
from msgspec import structs

from tests.board.test_tables import DEMO, complete_results, make_result
from tests.conftest import ROOT
from uebench import UserError
from uebench.cli.main import main
from uebench.components.registry import registry
from uebench.planning.job_names import cell_labels
from uebench.planning.plan import plan_selection
from uebench.planning.selection import select_components
from uebench.planning.suite import Suite
from uebench.planning.suite_file import available_suites, read_suite
from uebench.site.rerun_command import find_rerun_command
from uebench.storage.result import Result
from uebench.storage.results_file import read_results
from uebench.workflows import run as workflows_run


def planned(chosen: Suite, content: str, lists: dict[str, Any]) -> list[Result]:
    """Return a record for every cell of a run, with the names and keys that the run would give it."""
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    found = []
    for selection in select_components(chosen, **lists):
        for cell in plan_selection(selection, nothing, (plain,), [content] * len(selection.sources)).cells:  # type: ignore[arg-type]
            names = asdict(cell_labels(selection, cell))
            one = make_result("none", "none", cell.protect.seed, 0.5)
            found.append(structs.replace(one, key=cell.key, parameters=cell.parameters, suite=chosen.name, **names))
    return found


def typed(command: str, content: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the keys that a command line plans, read by the program's own parser."""
    keys: set[str] = set()

    def prepare(request: workflows_run.RunRequest, *_: Any, **__: Any) -> NoReturn:
        lists = asdict(request)
        keys.update(result.key for result in planned(read_suite(lists.pop("suite")), content, lists))
        sys.exit(0)

    monkeypatch.setattr(workflows_run, "prepare_run", prepare)
    words = shlex.split(command)
    assert words[0] == "uebench"
    done = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return keys


@pytest.mark.parametrize("name", ["demo", "cifar10-small"])
def test_it_plans_every_committed_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = list(read_results(ROOT / "leaderboards" / name / "results.jsonl").values())
    for noise in sorted({one.noise for one in records}):
        cells = [one for one in records if one.noise == noise]
        command = find_rerun_command(read_suite(name), cells)
        assert {one.key for one in cells} <= typed(command, cells[0].parameters["content"], monkeypatch)


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"noises": ["em"], "seeds": [3]}, "--noise em"),
        (
            {"noises": ["rem:adv_radius=2/255,surrogate=(smallcnn:width=16)"]},
            "--noise 'rem:surrogate=(smallcnn:width=16),adv_radius=2/255'",
        ),
        (
            {"noises": ["em"], "breakers": ["lowpass-median:size=5+adv-linf"]},
            "--breaker lowpass-median:size=5+adv-linf",
        ),
        ({"noises": ["em"], "targets": ["smallcnn:width=8"]}, "--target smallcnn:width=8"),
        ({"noises": ["em"], "datasets": ["digits:contrast=1"]}, "--dataset digits:contrast=1"),
        ({"noises": ["em"], "datasets": ["folder:path=photos,size=64"]}, "--dataset folder:path=PATH,size=64"),
        ({"noises": ["em"], "protected": [0.4]}, "--protect 0.4"),
        ({"protected": [0.4], "kind": "clean-only"}, "--protect 0.4 --kind clean-only"),
        ({"noises": ["em"], "recipe": "paper"}, "--recipe paper"),
        ({"noises": ["em"], "recipe": "fast:lr=0.05"}, "--recipe paper:steps=4000,lr=0.05,schedule=one-cycle"),
    ],
)
def test_it_says_what_differs_from_the_suite(
    lists: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {"seeds": [0, 1], "breakers": ["none", "adv-linf"], **lists}
    kind, share = lists.get("kind", "mixed"), lists.get("protected", [1.0])[0]
    records = [one for one in planned(DEMO, "c", lists) if (one.kind, one.protected) == (kind, share)]
    cells = [one for one in records if one.noise != "none" or kind != "mixed"]
    command = find_rerun_command(DEMO, cells)
    assert expected in command
    assert {one.key for one in cells} <= typed(command, "c", monkeypatch)


def test_a_suite_of_a_file_is_given_as_one(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text((available_suites()["demo"]).read_text())
    cells = planned(read_suite(str(path)), "", {"noises": ["none"]})
    assert find_rerun_command(read_suite(str(path)), cells).startswith("uebench run own.toml --noise none --breaker ")


def test_cells_that_no_command_plans_are_told() -> None:
    cells = [one for one in planned(DEMO, "", {"noises": ["em"]}) if one.noise == "em"]
    with pytest.raises(UserError, match="this version plans other cells than 0123"):
        find_rerun_command(DEMO, [*cells, structs.replace(cells[0], key="0123")])
    for text in ("--boards=/", "$(reboot)", "em --store /", "gone"):
        with pytest.raises(UserError):
            find_rerun_command(DEMO, [structs.replace(one, noise=text) for one in complete_results()])
