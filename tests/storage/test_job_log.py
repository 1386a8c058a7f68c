"""A job writes down when it started, where, how far it came and whether it failed; its log stays with what it made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import uebench
from tests.jobs.test_jobs import DIGITS, silent
from uebench.components.errors import StoreError
from uebench.jobs import run
from uebench.jobs.checkpoint import LOG_LINES, StoredProgress
from uebench.jobs.run import run_job_once
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Protect
from uebench.storage import job_log
from uebench.storage.store import Store


class Long(uebench.Noise):
    """Take many steps, and fail at one if told to."""

    name = "long"
    steps: int = 100
    fails_at: int = -1

    def make(self, images: Tensor, labels: Tensor, context: Any) -> Tensor:
        """Return no noise."""
        for step in context.steps(self.steps):
            if step == self.fails_at and not context.kept():
                raise ArithmeticError("in /home/ada")
            context.tell(torch.tensor(1.0 if step < 50 else float("nan")))
            context.keep(value=torch.tensor(step))
        return torch.zeros_like(images)


def made(place: Workspace, noise: Long) -> tuple[str, list[dict[str, Any]]]:
    """Make a noise, again where it fails, and return its key and its log."""
    job = Protect(DIGITS, "", noise, "fp32", 0)
    if noise.fails_at >= 0:
        with pytest.raises(ArithmeticError):
            run_job_once(job, place, silent)
    run_job_once(job, place, silent)
    files = place.store.find(job.key)
    assert files
    return job.key, list(job_log.read_job_log(job.key, files))


def test_a_log_has_the_start_and_some_of_the_steps_with_their_loss(place: Workspace) -> None:
    key, lines = made(place, Long())
    start, *steps = lines
    assert {name: start[name] for name in ("event", "key", "uebench")} == {
        "event": "started",
        "key": key,
        "uebench": uebench.__version__,
    }
    assert [(one["event"], one["step"], one["of"]) for one in steps] == [("step", n, 100) for n in range(5, 101, 5)]
    assert [one["loss"] for one in steps] == [1.0] * 10 + [None] * 10, "a loss that is no number has none"
    assert len(steps) == LOG_LINES
    assert not list((place.store.root / "half").iterdir())


def test_a_log_goes_on_after_a_failure_and_says_where(place: Workspace) -> None:
    every = Workspace(place.store, place.device, every=0)
    _, lines = made(every, Long(fails_at=42))
    events = [one["event"] for one in lines]
    assert events == ["started", *["step"] * 8, "failed", "started", "resumed", *["step"] * 12]
    assert lines[9]["error"] == "ArithmeticError", "what it said may name folders of its own"
    assert lines[11]["step"] == 42
    assert lines[12]["step"] == 45


def test_short_jobs_log_every_step_and_jobs_without_steps_their_start(store: Store) -> None:
    for count in (0, 1, 3):
        journal = StoredProgress(store, str(count), 0, silent, every=60)
        assert list(journal.steps(count)) == list(range(count))
        found = (store.root / "half" / f"{count}.log").read_text().splitlines()
        assert [json.loads(one)["step"] for one in found] == list(range(min(1, count), count + 1))


def test_work_without_a_log_and_a_line_cut_short_do_no_harm(store: Store) -> None:
    def kept(files: Mapping[str, Path] | None) -> list[dict[str, Any]]:
        assert files
        return list(job_log.read_job_log("key", files))

    store.save("key", {"result.json": b"{}"})
    assert kept(store.find("key")) == []
    store.note("key", '{"event": "st')
    job_log.log_event(store, "key", "resumed", step=3)
    job_log.log_event(store, "key", "started")
    store.note("key", '{"event": "st')
    store.save("key", {"result.json": b"{}"})
    assert [one["event"] for one in kept(store.find("key"))] == ["started"], "it begins with a start"


def test_a_full_disk_is_what_is_told_not_that_it_could_not_be_written_down(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, key: str, event: str, **content: object) -> None:
        if event == "failed":
            raise StoreError("cannot write the log")

    monkeypatch.setattr(run, "log_event", full)
    with pytest.raises(ArithmeticError):
        run_job_once(Protect(DIGITS, "", Long(fails_at=3), "fp32", 0), place, silent)
