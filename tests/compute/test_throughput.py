"""What `uebench bench` measures, keeps and tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.conftest import TINY
from uebench.cli.main import main
from uebench.compute import throughput
from uebench.compute.train import build_network
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.targets.smallcnn import SmallCNN

CPU = torch.device("cpu")


def test_operations_are_two_for_each_multiply_and_add() -> None:
    network = build_network(SmallCNN(width=4), (3, 8, 8), 10, "fp32", CPU, 0)
    convolutions = 64 * 3 * 4 * 9 + 16 * 4 * 8 * 9 + 4 * 8 * 8 * 9
    assert throughput.count_operations(network, torch.rand(5, 3, 8, 8)) == 2 * 5 * (convolutions + 8 * 10)


def test_a_step_is_timed_per_step_of_the_attack_and_compared_with_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.5, 2.0, 0.3])
    monkeypatch.setattr(throughput, "measure_seconds", lambda work, device, span: work() is None or next(times))
    attack, training = throughput.measure_steps(SmallCNN(width=4), (3, 8, 8), 10, throughput.Recipe(batch=6), CPU, 0)
    assert attack.peak == 2 * throughput.SIDES["cpu"] ** 3 / 0.5
    assert (attack.seconds, attack.images_per_second) == (pytest.approx(0.2), pytest.approx(6 / 0.2))
    assert (training.seconds, training.flops / attack.flops) == (pytest.approx(0.3), pytest.approx(1.5))
    assert attack.share == pytest.approx(attack.flops / 0.2 / attack.peak)


def test_the_command_tells_speeds_and_forecasts_which_a_dry_run_then_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    output = call("bench", str(TINY), "--seconds", "0", "--workers", "3", "--into", "kept/here.json")
    assert re.search(r"smallcnn:width=4 at 8x8 │ attack step +│ +[\d.e+]+ │", output)
    assert re.search(
        r"Suite \S+tiny\.toml\. Passes .*\nTime: \d+:\d\d:\d\d on 3 workers at the rates measured here", output
    )
    kept = json.loads((tmp_path / "kept" / "here.json").read_text())
    assert {"device", "torch"} <= set(kept["made_with"])
    assert [one["step"] for one in kept["speeds"]] == ["attack step", "training step"]
    assert all(one["seconds"] > 0 and one["share"] > 0 for one in kept["speeds"])
    assert "at the rates measured here" in call("run", str(TINY), "--dry-run")


def test_steps_are_measured_and_jobs_planned_without_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = ("--dataset", "folder:path=nowhere,size=8")
    done = CliRunner().invoke(main, ["bench", str(TINY), *dataset, "--seconds", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert re.search(r"smallcnn:width=4 at 8x8 │ training step +│ +[\d.e+]+ │", done.output)
    assert "nowhere/train is missing or has no folder per class; its networks were still measured" in done.output
    done = CliRunner().invoke(main, ["run", str(TINY), *dataset, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 1, "a data set that cannot be used"
    assert re.search(r"(\d+) of \1 jobs to do", done.output)
    assert "cannot be used, and so 6 cells cannot be run" in done.output


def test_no_data_set_is_read_to_measure_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Digits, "load", lambda source, folder: pytest.fail("the data set was read"))
    done = CliRunner().invoke(main, ["bench", str(TINY), "--seconds", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
