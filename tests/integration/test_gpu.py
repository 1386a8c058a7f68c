"""A run on a GPU from the command to the board; and on the processor, so that the test is tried without a GPU, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY
from uebench.jobs.environment import device_name
from uebench.storage.result import Result
from uebench.storage.results_file import read_results

LEARNED = {"none": 0.8, "adv-linf": 0.4}
"""What clean images give at least; on the processor, the lowest of five seeds is 0.89 and 0.62."""


def ran(folder: Path, device: str) -> tuple[dict[tuple[str, str], Result], str]:
    """Run the small suite with two processes; returns the results by noise and breaker, and what was said."""
    breakers = [word for name in LEARNED for word in ("--breaker", name)]
    recipe = ["--recipe", "paper:steps=300,batch=64,schedule=one-cycle"]
    words = ["run", str(TINY), *breakers, *recipe, "--workers", "2", "--device", device]
    command = [sys.executable, "-m", "uebench.cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    records = read_results(folder / ".uebench" / "boards" / "tiny" / "results.jsonl").values()
    return {(one.noise.partition(":")[0], one.breaker.partition(":")[0]): one for one in records}, said


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_run_on_a_device(device: str, tmp_path: Path) -> None:
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    results, said = ran(tmp_path, device)
    assert "Traceback" not in said
    assert "not recorded" not in said
    assert {noise for noise, _ in results} == {"none", "em", "rem"}
    for breaker, least in LEARNED.items():
        assert results["none", breaker].test_accuracy > least
    for one in results.values():
        assert one.made_with["device"] == device_name(torch.device(device))
        assert (one.peak_bytes is None) == (device == "cpu")
    assert ran(tmp_path, device)[0] == results, "what is finished is not done again"
