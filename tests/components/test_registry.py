"""Distributions of other people, installed into a fresh environment: the good one works, the bad are named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, TINY, environment, install

STRANGERS = ROOT / "tests" / "data" / "strangers"
BUILT_INS = ROOT / "plugins" / "uebench_plugins"
FIELD = {"stranger_field_noise": "noises/ops.py", "stranger_field_breaker": "breakers/mixing.py"}
"""Built-in modules that one of the distributions is made of, under other names."""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def uebench(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the command line of an environment of its own, which sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("stranger")
    python = environment(folder / "env", ROOT, ROOT / "plugins")
    built = folder / "source"
    shutil.copytree(STRANGERS, built)
    for module, path in FIELD.items():
        text = re.sub(r'( name = ".*)"', r'\1-abroad"', (BUILT_INS / path).read_text())
        (built / "field" / f"{module}.py").write_text(text)
    install(python, *(str(built / name) for name in ("good", "crashes", "misspelt", "taken", "field")))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "uebench.cli", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)

    return run


def test_all_are_listed_with_where_they_come_from_and_what_was_left_out(uebench: Run) -> None:
    done = uebench("plugins")
    assert done.returncode == 0
    lines = done.stdout.splitlines()

    def line(*words: str) -> bool:
        return any(all(word in one for word in words) for one in lines)

    assert line("stamp", "Add one random pattern per class.", "stranger-good 1.2.0")
    assert line("blur", "stranger-good 1.2.0")
    assert line("upside-down", "stranger-taken 1.2.0")
    assert line("adv-linf", "uebench ")
    assert line("crashes = stranger_crashes", "No module named 'a_package_that_nobody_has'")
    assert line("misspelt = stranger_misspelt", "there is no hook register_noise; did you mean register_noises?")
    assert line("taken = stranger_taken", "the breaker name adv-linf is taken by uebench ")


def test_its_parameters_are_shown(uebench: Run) -> None:
    done = uebench("plugins", "stamp")
    assert "share of the radius that is used" in done.stdout
    assert "> 0, <= 1" in done.stdout


def test_it_is_checked(uebench: Run) -> None:
    for name in ("stamp", "blur"):
        done = uebench("check", name)
        assert done.returncode == 0, done.stdout
        assert "FAIL" not in done.stdout
    done = uebench("check", "loud")
    assert done.returncode == 1
    assert "noise loud returned 64/255, over its budget 32/255" in done.stdout


def test_it_is_run_in_worker_processes_and_put_on_record_with_its_version(uebench: Run) -> None:
    done = uebench("run", str(TINY), "--noise", "stamp", "--breaker", "blur+adv-linf", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(str(done.args[0])).parents[2] / ".uebench" / "boards" / "tiny" / "results.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {one["noise"] for one in records} == {"none", "stamp"}
    assert {one["breaker"] for one in records} == {"none", "blur+adv-linf"}
    ours = next(one for one in records if one["noise"] == "stamp")
    assert ours["made_with"]["plugins"]["stranger-good"] == "1.2.0"
    assert ours["parameters"]["noise"].startswith("stamp@1:radius=")
    assert ours["noise_linf"] == pytest.approx(32 / 255)


def test_built_ins_from_a_distribution_of_their_own_keep_the_contract_and_give_the_same_numbers(uebench: Run) -> None:
    """A one-pixel noise, which has a budget of its own, and a breaker that makes soft targets need nothing private."""
    for name in ("ops-abroad", "cutmix-abroad"):
        done = uebench("check", name)
        assert done.returncode == 0, done.stdout
    words = [word for name in ("ops", "ops-abroad") for word in ("--noise", name)]
    words += [word for name in ("cutmix", "cutmix-abroad") for word in ("--breaker", name)]
    done = uebench("run", str(TINY), *words, "--recipe", "paper:steps=20,batch=64", "--seed", "5", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(str(done.args[0])).parents[2] / ".uebench" / "boards" / "tiny" / "results.jsonl"
    records = [one for one in map(json.loads, path.read_text().splitlines()) if one["seed"] == 5]
    assert len(records) == 9
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in records:
        cell = (one["noise"].removesuffix("-abroad"), one["breaker"].removesuffix("-abroad"))
        cells.setdefault(cell, []).append(one)
        abroad = "abroad" in one["noise"] + one["breaker"]
        assert one["made_with"]["plugins"].get("stranger-field") == ("2.0.0" if abroad else None)
    assert {cell: len(found) for cell, found in cells.items()} == {
        ("none", "none"): 1,
        ("none", "cutmix"): 2,
        ("ops", "none"): 2,
        ("ops", "cutmix"): 4,
    }
    for found in cells.values():
        for name in ("curve", "test_accuracy", "noise_norm", "noise_linf", "noise_l2", "psnr", "ssim"):
            assert all(one[name] == found[0][name] for one in found), name
    assert {one["noise_norm"] for one in cells["ops", "cutmix"]} == {"l0"}


def test_one_that_breaks_the_contract_fails_its_cells_only(uebench: Run) -> None:
    done = uebench("run", str(TINY), "--noise", "loud", "--noise", "stamp", "--breaker", "none", "--seed", "1")
    assert done.returncode == 1
    assert "noise loud returned 64/255, over its budget 32/255" in done.stdout
    assert "stamp / none on smallcnn, seed 1: " in done.stdout
    assert "1 of 3 cells are missing" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
