"""What runs on a pull request and when the site is published: no secret, no more rights than needed, pinned actions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, TINY
from tests.submission.factory import handed_in, results
from uebench.cli.main import main

FOLDER = ROOT / ".github" / "workflows"
FLOWS = {path.stem: yaml.load(path.read_text(), yaml.BaseLoader) for path in sorted(FOLDER.glob("*"))}
RIGHTS = {"publish": {"pages": "write", "id-token": "write"}}
"""What a job may do beyond reading the repository."""


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in FLOWS[name]["jobs"].values() for step in job["steps"]]


def scripts(name: str) -> list[str]:
    return [step["run"] for step in steps(name) if "run" in step]


def test_there_are_these() -> None:
    assert {name: set(flow["on"]) for name, flow in FLOWS.items()} == {
        "bundles": {"pull_request"},  # never pull_request_target, which has secrets
        "pages": {"push", "workflow_dispatch"},
        "tests": {"pull_request", "push"},
    }
    assert [FLOWS[name]["on"]["push"]["branches"] for name in ("pages", "tests")] == [["main"]] * 2


@pytest.mark.parametrize("name", FLOWS)
def test_a_workflow_may_do_no_more_than_it_needs(name: str) -> None:
    assert FLOWS[name]["permissions"] == {"contents": "read"}
    for job, told in FLOWS[name]["jobs"].items():
        assert told.get("permissions", {}) == RIGHTS.get(job, {})
        assert job not in RIGHTS or not [step for step in told["steps"] if "run" in step], "who may write runs no code"
        assert told["runs-on"] == "ubuntu-latest"
        assert 0 < int(told["timeout-minutes"]) <= 60
    assert "secrets" not in (FOLDER / f"{name}.yml").read_text().replace("no secret", "")


@pytest.mark.parametrize("name", FLOWS)
def test_actions_are_githubs_own_pinned_by_hash_and_leave_no_token_behind(name: str) -> None:
    for used, label in re.findall(r"uses: (\S+)(.*)", (FOLDER / f"{name}.yml").read_text()):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", used)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", label)
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("name", FLOWS)
def test_scripts_hold_no_text_of_a_stranger_and_name_what_there_is(name: str) -> None:
    for script in scripts(name):
        assert "${{" not in script
        for command in re.findall(r"\buebench ([a-z]+)", script):
            assert command in main.commands
        if script.startswith("."):
            assert os.access(ROOT / shlex.split(script)[0], os.X_OK)


def test_bundles_are_read_by_the_code_of_the_branch_they_are_for() -> None:
    ours, theirs = (step["with"] for step in steps("bundles") if step.get("uses", "").startswith("actions/checkout@"))
    assert ours["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert "path" not in ours
    assert theirs["path"] == "handed-in"
    assert not [script for script in scripts("bundles") if "handed-in" in script and script.split()[0] != "find"]


def test_every_bundle_of_a_pull_request_is_verified(tmp_path: Path) -> None:
    """The script as it stands, with a `uebench` that is this one."""
    (script,) = (one for one in scripts("bundles") if "verify" in one)
    (tmp_path / "uebench").write_text(f'#!/bin/sh\nexec {sys.executable} -m uebench.cli "$@" --suite {TINY}\n')
    (tmp_path / "uebench").chmod(0o755)
    place = tmp_path / "handed-in" / "a folder"
    place.mkdir(parents=True)

    def verify() -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
        )

    handed_in(place / "good;touch x.zip", results("em"), "em")
    (tmp_path / "handed-in" / "link.zip").symlink_to("/etc/passwd")
    done = verify()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("badge     valid\n") == 1
    with zipfile.ZipFile(place / "bad\n::error::.zip", "w") as archive:
        archive.writestr("evil.py", "")
    done = verify()
    assert done.returncode != 0
    assert "Error: bundle.zip holds a member 'evil.py'" in done.stderr
    assert "::error::" not in done.stdout + done.stderr
    assert not (tmp_path / "x").exists()
