"""A stranger's first hour: what `uebench new` writes is installed, tested, checked and run, and works untouched."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.conftest import ROOT, TINY, environment, install
from uebench import UserError
from uebench.authoring.check import check_component
from uebench.authoring.scaffold import create_plugin
from uebench.cli.main import main
from uebench.components.kinds import KINDS
from uebench.components.plugin_file import read_plugin_file
from uebench.components.registry import Registry
from uebench.storage.history import read_history
from uebench.storage.results_file import read_results

GUIDE = (ROOT / "plugins" / "README.md").read_text()
NAMES = {"noise": "my-noise", "breaker": "my-breaker", "target": "my-target", "dataset": "my-dataset"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the engine's wheel from a copy: building leaves folders behind."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("uebench", "plugins", "leaderboards"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of a fresh environment with the wheel, where `pip` and `pytest` do without a network."""
    python = environment(tmp_path_factory.mktemp("environment") / "env")
    install(python, "--ignore-installed", str(wheel))
    here = f"exec {sys.executable} -m pip --python {python}"
    for name, line in {
        "pip": f'shift; {here} install --quiet --no-index --no-deps --no-build-isolation "$@"',
        "pytest": f'exec {python} -m pytest -q "$@"',
    }.items():
        (python.parent / name).write_text(f"#!/bin/sh\n{line}\n")
        (python.parent / name).chmod(0o755)
    return python.parent


def test_a_wheel_brings_the_published_boards_and_leaves_them_as_they_are(commands: Path, tmp_path: Path) -> None:
    published = commands.parent / "share" / "uebench" / "leaderboards"
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    assert {path.parent.name for path in before} == {
        path.parent.name for path in (ROOT / "leaderboards").glob("*/results.jsonl")
    }
    assert "ntga-pgd" in shell(commands, tmp_path, "uebench rank demo")
    words = "--noise none --breaker none --seed 0 --recipe paper:steps=300,schedule=one-cycle"
    assert re.search(
        r"^\d of your \d cells agree", shell(commands, tmp_path, f"uebench run demo {words}"), re.MULTILINE
    )
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == [".uebench"]


def shell(commands: Path, folder: Path, script: str) -> str:
    """Run a script as a person types it; returns what it printed."""
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def calls(commands: Path, lines: Sequence[tuple[Path | str, ...]]) -> list[str]:
    """Call commands, each in the folder before its words, all in one process: each loads torch anew."""
    code = """
import json, os, sys
from click.testing import CliRunner
from uebench.cli import main
for folder, *words in json.loads(sys.argv[1]):
    os.chdir(folder)
    done = CliRunner().invoke(main, words)
    print(json.dumps([done.exit_code, done.output]))
"""
    command = [str(commands / "python"), "-c", code, json.dumps(lines, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [status for status, _ in outcomes] == [0] * len(lines), outcomes
    return [output for _, output in outcomes]


def test_the_wheel_has_the_templates_and_all_else_that_is_no_code(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    data = {
        str(path.relative_to(root))
        for root, package in ((ROOT, "uebench"), (ROOT / "plugins", "uebench_plugins"))
        for path in (root / package).rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert [path for path in data if path.endswith(".jinja")]
    assert data <= packed


def test_the_guides_first_commands_work_as_they_stand(commands: Path, tmp_path: Path) -> None:
    script = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)[0].rstrip()
    assert script.startswith("uebench new noise mine\n")
    assert script.endswith("\nuebench run demo --noise mine")
    shorter = "--breaker none --recipe paper:steps=60,evaluations=2"
    printed = shell(commands, tmp_path, f"{script} {shorter}")
    assert "1 passed" in printed
    assert "FAIL" not in printed
    records = read_results(tmp_path / "mine" / ".uebench" / "boards" / "demo" / "results.jsonl").values()
    assert {one.noise for one in records} == {"none", "mine"}
    assert {one.made_with["plugins"].get("uebench-mine") for one in records if one.noise == "mine"} == {"0.1.0"}


def test_the_guides_noise_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "guided.py").write_text(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0])
    findings = check_component("noise", read_plugin_file(tmp_path / "guided.py").load().Mine(strength=0.5))
    assert findings
    assert [finding for finding in findings if not finding.kept] == []


def test_every_kind_is_installed_tested_checked_and_run(commands: Path, tmp_path: Path) -> None:
    for kind, name in NAMES.items():
        create_plugin(kind, name, tmp_path)
    printed = shell(
        commands, tmp_path, f"pip install {' '.join(f'-e {name}' for name in NAMES.values())}; pytest */tests"
    )
    assert "4 passed" in printed
    small = ["run", str(TINY), "--workers", "1", "--noise", "none"]
    lines = [
        *(["check", name] for name in NAMES.values()),
        *(["run", "demo", f"--{kind}", name, "--dry-run"] for kind, name in NAMES.items()),
        [*small, "--breaker", "my-breaker"],
        [*small, "--breaker", "none", "--target", "my-target"],
        [*small, "--breaker", "none", "--dataset", "my-dataset"],
    ]
    outputs = calls(commands, [(tmp_path, *line) for line in lines])
    assert not [output for output in outputs if "FAIL" in output]
    records = read_results(tmp_path / ".uebench" / "boards" / "tiny" / "results.jsonl").values()
    found = {kind: {getattr(one, kind) for one in records} for kind in NAMES}
    assert all(name in found[kind] for kind, name in NAMES.items() if kind != "noise")  # the guide's commands run one


def on_board(folder: Path, noise: str) -> tuple[dict[str, str], str, str]:
    """Return a noise's row in `noises.csv`, its line in README.md, and the text of its row on the page of the suite."""
    with (folder / "noises.csv").open() as file:
        found = next(one for one in csv.DictReader(file) if one["noise"] == noise)
    line = next(one for one in (folder / "README.md").read_text().splitlines() if f" | {noise} | " in one)
    page = (folder.parent / "site" / "tiny" / "index.html").read_text()
    ranked = re.findall(rf'<tr data-name="{noise}".*?</tr>', page, re.DOTALL)[0]
    return found, line, " ".join(re.sub(r"<[^>]+>", " ", ranked).split())


def test_a_strangers_whole_way_from_nothing_to_the_board_and_back(commands: Path, tmp_path: Path) -> None:
    """A noise is written, run, handed in, run again and accepted; then a breaker takes some of it away."""
    stranger, maintainer = tmp_path / "stranger", tmp_path / "maintainer"
    stranger.mkdir()
    maintainer.mkdir()
    calls(commands, [(stranger, "new", "noise", "their-noise"), (stranger, "new", "breaker", "their-breaker")])
    assert "2 passed" in shell(commands, stranger, "pip install -e their-noise -e their-breaker; pytest */tests")

    run = ("run", str(TINY), "--seed", "0,1,2", "--workers", "1")
    judge = ("--suite", str(TINY), "--rerun", "2", "--verification-seed", "1", "--workers", "1")
    submit = ("submit", str(TINY), "--noise", "their-noise")
    *_, checked, _, packed, verified, accepted, _ = calls(
        commands,
        [
            (maintainer, *run, "--noise", "em"),
            (maintainer, "publish", str(TINY)),
            (stranger, "check", "their-noise"),
            (stranger, *run, "--noise", "their-noise"),
            (stranger, *submit, "--into", "../noise.zip", "--name", "Ada Example"),
            (maintainer, "verify", "../noise.zip", *judge),
            (maintainer, "accept", "../noise.zip", *judge),
            (maintainer, "site", str(TINY)),
        ],
    )
    assert "FAIL" not in checked
    assert "cells     12 results, 6 of the entry itself, seeds 0, 1, 2\n" in packed
    assert "log       of 12 of 12 results\n" in packed
    assert "badge     claimed" in packed
    for judged in (verified, accepted):
        assert "6 references are on the board" in judged
        assert "re-run    2 of 2 cells, verification seed 1" in judged
        assert "badge     re-run\n" in judged
    folder = maintainer / "leaderboards" / "tiny"
    theirs, line, page = on_board(folder, "their-noise")
    ours, *_ = on_board(folder, "em")
    places = sorted((theirs, ours), key=lambda one: -float(one["residual_protection"]))
    assert [one["rank"] for one in places] == ["1", "2"]
    assert theirs is places[0], "it fools plain training, em in 12 steps does not"
    assert (theirs["rank_low"], ours["rank_high"]) == ("1", "2")
    ranks = "1" if theirs["rank_high"] == "1" else "1 to 2"
    assert (theirs["status"], theirs["ruling"]) == ("ranked", "re-run")
    residual = f"{100 * float(theirs['residual_protection']):.1f}"
    assert line.startswith(f"| 1 | their-noise | {ranks} | {residual} \\[")
    assert "re-run" in line
    assert page.startswith(f"1 their-noise {ranks} {residual} [")
    assert page.removesuffix(" linearly-separable").endswith("re-run")

    chain, listed = "grayscale+their-breaker", ("--boards", "../maintainer/leaderboards")
    *_, challenged, _ = calls(
        commands,
        [
            (stranger, *run, "--noise", "their-noise", "--breaker", chain),
            (stranger, *submit, "--breaker", chain, "--into", "../breaker.zip", "--name", "Eve Example", *listed),
            (maintainer, "accept", "../breaker.zip", *judge),
            (maintainer, "site", str(TINY)),
        ],
    )
    after, line, page = on_board(folder, "their-noise")
    assert float(after["residual_protection"]) < float(theirs["residual_protection"])
    assert after["worst_breaker"] == chain
    assert (after["status"], after["ruling"]) == ("ranked", f"re-run; also against {chain}")
    assert "changed   their-noise: ranked, " in challenged
    assert f"also against {chain}" in line
    assert page.removesuffix(" linearly-separable").endswith(f"re-run; also against {chain}")
    first, second = read_history(folder)
    assert [one["submitter"] for one in (first, second)] == ["Ada Example", "Eve Example"]
    assert first["date"] <= second["date"]
    assert residuals(first)[-1] == residuals(second)[0] == pytest.approx(float(theirs["residual_protection"]), abs=1e-6)
    assert residuals(second)[-1] == pytest.approx(float(after["residual_protection"]), abs=1e-6)
    assert on_board(folder, "em")[0]["residual_protection"] == ours["residual_protection"]


def residuals(line: Any) -> list[float]:
    """Return what the stranger's noise had before and after a decision, where it had something."""
    (change,) = [one for one in line["changes"] if one["noise"].startswith("their-noise@")]
    return [one["residual_protection"] for one in (change["old"], change["new"]) if one]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dataset", "a-2"])
def test_each_keeps_the_contract_under_any_name(kind: str, name: str, tmp_path: Path) -> None:
    """A class may come to be called as one of torch's or of the engine's."""
    folder = create_plugin(kind, name, tmp_path)
    own = Registry()
    own.add(read_plugin_file(folder / f"{name.replace('-', '_')}.py"))
    findings = check_component(kind, own.build(kind, name))
    assert findings
    assert [finding for finding in findings if not finding.kept] == []
    (entry,) = own.entries[kind].values()
    assert entry.cls.__doc__


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["new", "noise", "my-noise", "--into", "new folder"])
    assert done.exit_code == 0, done.output
    assert "cd 'new folder/my-noise'\n" in done.output
    assert done.output.endswith("\nuebench run demo --noise my-noise\n")
    folder = tmp_path / "new folder" / "my-noise"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "README.md", "my_noise.py", "tests/test_my_noise.py"}
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["my-noise"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["uebench"] == {"my-noise": "my_noise"}
    assert not [path for path in files if "{" in (folder / path).read_text().replace("{name}", "")]


def test_every_kind_can_be_chosen() -> None:
    choices = next(one.type for one in main.commands["new"].params if one.name == "kind")
    assert isinstance(choices, click.Choice)
    assert list(choices.choices) == list(KINDS)


REFUSED = {
    "upper case": ("Mine", "'Mine' is not a name: expected lower-case letters, digits and single hyphens"),
    "a digit first": ("2nd", "'2nd' is not a name"),
    "an underscore": ("my_noise", "'my_noise' is not a name"),
    "a hyphen last": ("mine-", "'mine-' is not a name"),
    "two hyphens": ("my--noise", "'my--noise' is not a name"),
    "a path": ("../mine", "'../mine' is not a name"),
    "a line": ("mine\n", "is not a name"),
    "nothing": ("", "'' is not a name"),
    "a word of Python": ("class", "'class' is a keyword of Python"),
    "a word of Python, as a class": ("true", "'true' is a keyword of Python"),
    "a component": ("rem", "the noise name rem is taken by uebench "),
    "a module of Python's": ("random", "a module random is installed already, from "),
    "a module of an installed package": ("torch", "a module torch is installed already, from "),
    "a folder that is there": ("mine", "mine exists already; choose another name, or another folder with --into"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_name_that_cannot_be_taken_is_refused(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, expected = REFUSED[mistake]
    (tmp_path / "mine").mkdir()
    done = CliRunner().invoke(main, ["new", "noise", name])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")
    assert expected in line
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_name_of_another_kind_is_free(tmp_path: Path) -> None:
    assert create_plugin("breaker", "rem", tmp_path) == tmp_path / "rem"


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/mine: Not a directory"):
        create_plugin("noise", "mine", tmp_path / "file")

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(UserError, match=r"cannot write .*mine: No space left on device") as caught:
        create_plugin("noise", "mine", tmp_path)
    assert caught.value.status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
