"""Runs that are killed, doubled, damaged or stopped end with the same record as one that went straight through."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TINY
from uebench.storage.result import VARYING_FIELDS

COMMAND = [sys.executable, "-m", "uebench.cli", "run", str(TINY), "--keep-every", "0"]


def start(
    folder: Path, *options: str, interrupt: signal.Handlers = signal.SIG_DFL, session: bool = False
) -> subprocess.Popen[str]:
    """Start a run; `interrupt` is what it inherits for SIGINT, which a shell's background jobs ignore."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),
        start_new_session=session,
    )


def finish(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def record(folder: Path) -> list[str]:
    """Return the lines of the record without times and places."""
    lines = (folder / ".uebench" / "boards" / "tiny" / "results.jsonl").read_text().splitlines()
    tables = [json.loads(line) for line in lines]
    return [json.dumps({key: value for key, value in one.items() if key not in VARYING_FIELDS}) for one in tables]


def wait_for(process: subprocess.Popen[str], pattern: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if re.search(pattern, line):
            return
    pytest.fail(f"the run ended before it said {pattern!r}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    finish(folder, "--workers", "1")
    return folder


def half_finished(folder: Path, known: set[Path]) -> set[Path]:
    """Return what is kept of jobs at work, without their logs."""
    return {path for path in (folder / ".uebench" / "half").glob("[!.]*") if path.suffix != ".log"} - known


@pytest.mark.parametrize(
    ("workers", "after", "inside"),
    [
        ("1", "start  making none", False),
        ("1", "start  making rem", True),
        ("1", "done   making rem", False),
        ("1", "start  rem / adv-linf", True),
        ("2", "start  making rem", True),
        ("2", "start  em / adv-linf", False),
    ],
)
def test_a_killed_run_goes_on_to_the_same_record(
    straight: Path, tmp_path: Path, workers: str, after: str, inside: bool
) -> None:
    process = start(tmp_path, "--workers", workers)
    wait_for(process, re.escape(after))
    known = half_finished(tmp_path, set())
    while inside and not half_finished(tmp_path, known) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    if inside:
        assert half_finished(tmp_path, known), "the kill did not hit a job with kept state"
    assert process.stdout
    process.stdout.close()
    finish(tmp_path, "--workers", workers)
    assert record(tmp_path) == record(straight)


def test_the_number_of_workers_changes_nothing(straight: Path, tmp_path: Path) -> None:
    finish(tmp_path, "--workers", "4")
    assert record(tmp_path) == record(straight)


def test_two_processes_on_one_store_share_the_work(straight: Path, tmp_path: Path) -> None:
    crew = [start(tmp_path, "--workers", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in crew]
    assert [process.returncode for process in crew] == [0, 0], outputs
    assert record(tmp_path) == record(straight)
    made = [set(re.findall(r"done +(.*?)(?:: |  \[)", output)) for output in outputs]
    assert "Traceback" not in "".join(outputs)
    assert all(made), "one process did everything"


def test_a_finished_run_does_nothing_again(straight: Path) -> None:
    before = (straight / ".uebench" / "boards" / "tiny" / "results.jsonl").read_bytes()
    output = finish(straight, "--workers", "1")
    assert "start " not in output
    assert (straight / ".uebench" / "boards" / "tiny" / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["released.safetensors", "result.json"])
def test_damaged_work_is_noticed_remade_and_said(straight: Path, name: str) -> None:
    expected = record(straight)
    path = sorted((straight / ".uebench" / "done").rglob(name))[-1]
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    output = finish(straight, "--workers", "1")
    assert f"{name} does not match its checksum" in output
    assert "start " in output
    if name == "released.safetensors":
        assert path.read_bytes() == content
    assert record(straight) == expected


def test_a_background_job_is_stopped_by_sigterm(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "1", interrupt=signal.SIG_IGN)
    wait_for(process, r"done   \w+ / ")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output


@pytest.mark.parametrize("pause", [0.1, 0.8])
def test_ctrl_c_goes_to_processes_that_are_still_loading_and_they_leave_it_to_the_run(
    pause: float, tmp_path: Path
) -> None:
    """A terminal sends it to all at once."""
    process = start(tmp_path, "--workers", "3", session=True)
    wait_for(process, r"start ")
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Stopped with" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGINT, "1"), (signal.SIGINT, "2"), (signal.SIGTERM, "2")])
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    straight: Path, tmp_path: Path, how: signal.Signals, workers: str
) -> None:
    process = start(tmp_path, "--workers", workers)
    wait_for(process, r"done   \w+ / ")  # the first cell: the last may be done before the signal arrives
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(r"Stopped with \d of 6 cells done. The same command goes on from here.", output)
    assert "Traceback" not in output
    lines = (tmp_path / ".uebench" / "boards" / "tiny" / "results.jsonl").read_text().splitlines()
    assert 1 <= len(lines) <= 5
    finish(tmp_path, "--workers", workers)
    assert record(tmp_path) == record(straight)
