"""Passes are those that are taken, and times follow from what was measured on this device."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.conftest import TINY
from tests.plugins.noises.reference_noises import RecordingNetwork
from uebench import Breaker, Noise, Target, kit
from uebench.cli.main import main
from uebench.jobs import forecast
from uebench.planning.plan import Cell, Protect
from uebench.storage.store import Store
from uebench_plugins.breakers.adv_l1 import AdvL1
from uebench_plugins.breakers.adv_l2 import AdvL2
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.datasets.cifar import Cifar10, Cifar100
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.noises.none import NoNoise
from uebench_plugins.noises.rem import REM
from uebench_plugins.noises.sc import SC
from uebench_plugins.targets.smallcnn import SmallCNN

CPU = torch.device("cpu")


def cell(chain: tuple[Breaker, ...] = (AdvLinf(),), **changes: Any) -> Cell:
    """Return a cell by the papers' recipe."""
    made = Cell(Protect(Cifar10(), "", NoNoise(), "fp32", 0), chain, SmallCNN(width=1), kit.Recipe())
    return replace(made, **changes)


def test_a_time_that_cannot_be_noted_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / forecast.RATES_FILE).mkdir()
    forecast.record_time(cell(), Store(tmp_path), CPU, 1.0)
    assert forecast.estimate_seconds([cell()], Store(tmp_path), CPU) == [None]


BREAKERS = [
    AdvLinf(),
    AdvLinf(radius=0),
    AdvLinf(method="fgsm"),
    AdvLinf(method="rs-fgsm", steps=7),
    AdvLinf(method="apgd", steps=4),
    AdvLinf(steps=0, method="fgsm"),
    AdvL2(steps=3),
    AdvL1(exact=True, steps=2),
    NoBreaker(),
]


@pytest.mark.parametrize("breaker", BREAKERS, ids=repr)
def test_a_breaker_takes_the_passes_that_it_says(breaker: Breaker) -> None:
    net = RecordingNetwork(SmallCNN(width=1).build((3, 6, 6), 4))
    looks = 1 if getattr(breaker, "method", "") == "apgd" else 0  # APGD's last, without a gradient
    breaker.attack(net, torch.rand(2, 3, 6, 6), torch.tensor([0, 1]), 0.0)
    assert len(net.attacked) - looks == breaker.passes()


def test_training_takes_a_pass_a_step_and_those_of_the_attack() -> None:
    assert cell().passes() == {SmallCNN(width=1): 40_000 * 128 * 11}
    assert cell((NoBreaker(),)).passes() == {SmallCNN(width=1): 40_000 * 128}


def test_a_noise_costs_what_it_says_for_the_images_of_the_set() -> None:
    rem = REM(surrogate=SmallCNN(width=1))
    found = Protect(Cifar10(), "", rem, "fp32", 0).passes()
    assert found == {rem.surrogate: 5000 * 128 * (550 + 11) + 50_000 * 550}
    assert Protect(Cifar10(), "", SC(), "fp32", 0).passes() == {}


def test_sources_count_what_they_load(tmp_path: Path) -> None:
    for images in (100, 500):
        source = Digits(test_images=images)
        assert source.count() == len(source.load(tmp_path).train.labels)


def test_times_scale_with_passes_and_are_of_the_same_network_data_precision_and_device(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare()
    wanted = cell()
    assert forecast.estimate_seconds([wanted], store, CPU) == [None]
    for seconds in (11.0, 22.0, 330.0):
        forecast.record_time(cell((NoBreaker(),)), store, CPU, seconds)
    assert forecast.estimate_seconds([wanted], store, CPU) == [pytest.approx(22 * 11)]
    unlike = [
        cell(target=SmallCNN(width=2)),
        cell(protect=replace(wanted.protect, source=Cifar100())),
        cell(recipe=kit.Recipe(precision="bf16")),
    ]
    assert forecast.estimate_seconds(unlike, store, CPU) == [None, None, None]
    monkeypatch.setattr(forecast, "device_name", lambda device: "another")
    assert forecast.estimate_seconds([wanted], store, CPU) == [None]


def test_a_noise_of_unknown_passes_goes_by_its_own_time(store: Store) -> None:
    class Two(Noise):
        name = "two"

        def passes(self, count: int) -> dict[Target, float]:
            return {SmallCNN(width=1): 1.0, SmallCNN(width=2): 2.0}

    store.prepare()
    for noise in (SC(), Two()):
        job = Protect(Cifar10(), "", noise, "fp32", 0)
        forecast.record_time(job, store, CPU, 5.0)
        assert forecast.estimate_seconds([replace(job, seed=1)], store, CPU) == [5.0]


def test_a_damaged_line_is_passed_over(store: Store) -> None:
    store.prepare()
    forecast.record_time(cell(), store, CPU, 3.0)
    path = store.root / forecast.RATES_FILE
    whole = path.read_bytes()
    odd = [{"what": ["x"]}, {"what": ["x"], "amount": 0, "seconds": 1}, 7]
    path.write_bytes(b"\xff{\n" + b"".join(json.dumps(one).encode() + b"\n" for one in odd) + whole + whole[:9])
    assert forecast.estimate_seconds([cell()], store, CPU) == [pytest.approx(3.0)]


def test_a_dry_run_says_what_is_left_and_how_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        done = CliRunner().invoke(main, ["run", str(TINY), "--noise", "em", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    before = call("--breaker", "adv-linf", "--dry-run")
    assert "Time: nothing of the kind was measured on this device so far" in before
    assert not list(tmp_path.iterdir())
    call("--breaker", "none", "--workers", "1")
    after = call("--breaker", "adv-linf", "--dry-run", "--workers", "1")
    steps, batch, attack = 60, 64, 2
    assert f"Passes of one image, forward and backward: {2 * steps * batch * (1 + attack) / 1e3:.3g} k" in after
    assert re.search(r"Time: \d+:\d\d:\d\d on 1 worker at the rates measured here so far\n", after)
    assert re.search(r"│ em / none on smallcnn +│ 1 +│ 1 +│ – +│ +│", after)
    assert re.search(r"│ em / adv-linf on smallcnn +│ 1 +│ 0 +│ [\d.]+ k +│ \d+:\d\d:\d\d +│", after)
