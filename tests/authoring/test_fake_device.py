"""The device that the processor plays computes what the processor does, and refuses what a GPU refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.conftest import TINY
from uebench.authoring.fake_device import simulated_device
from uebench.components.registry import registry
from uebench.jobs.run import run_job_once
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Protect, plan_cells, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.store import Store
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.noises.none import NoNoise

Program = Callable[[Tensor], object]
INDEX, VALUES = torch.tensor([0, 2]), torch.arange(12.0).view(4, 3) / 7


def assign(x: Tensor, index: object, value: object) -> Tensor:
    x = x.clone()
    x[index] = value  # type: ignore[index, assignment]
    return x


def trained(x: Tensor) -> Tensor:
    """Return a layer's weights after two steps from zero."""
    layer = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True)).to(x.device)
    for weight in layer.parameters():
        nn.init.constant_(weight, 0.3)
    descent = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        descent.zero_grad()
        F.cross_entropy(layer(x), torch.zeros(4, dtype=torch.int64, device=x.device)).backward()
        descent.step()
    return layer[0].weight.detach()


def gradient(x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad((x.sin() * x.detach().flip(0)).sum(), x)
    return slope


ALLOWED: dict[str, Program] = {
    "arithmetic": lambda x: x * 2 + x.mean(0),
    "a new tensor there": lambda x: x + torch.ones(3, device=x.device),
    "numbers there": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "numbers there, as_tensor": lambda x: x * torch.as_tensor([2.0], device=x.device),
    "an array there": lambda x: x * torch.as_tensor(np.full(3, 2.0, np.float32), device=x.device),
    "a tensor of a tensor": lambda x: x + torch.as_tensor(x) + torch.asarray(x),
    "like it": lambda x: torch.zeros_like(x) + x.new_ones(3) + x.new_tensor([1.0, 2.0, 3.0]),
    "moved": lambda x: x + torch.from_numpy(np.ones((4, 3), np.float32)).to(x.device),
    "a scalar from the host": lambda x: x * torch.tensor(2.0),
    "an index from the host": lambda x: x[INDEX],
    "an index there": lambda x: x[INDEX.to(x.device)],
    "a mask from the host": lambda x: x[torch.tensor([True, False, True, False])],
    "a mask there": lambda x: x[x > 0.5],
    "a list for an index": lambda x: x[[2, 0]] + x[1:3][:, [2, 0, 1]],
    "an array for an index": lambda x: x[np.array([[2, 0], [1, 3]])],
    "a list for a mask": lambda x: x[[True, False, True, False]],
    "no index": lambda x: x[[]] if len(x[()]) else x,
    "assigned by a list": lambda x: assign(x, [1, 3], x[:2]),
    "assigned, a scalar": lambda x: assign(x, INDEX, 5.0),
    "assigned, a slice of the host": lambda x: assign(x, slice(0, 2), torch.ones(2, 3)),
    "a view written through": lambda x: assign(x.clone(), slice(1, 3), 0.0)[1:3].add_(2),
    "to the host": lambda x: x.cpu() + torch.ones(3),
    "to the host and to numpy": lambda x: torch.from_numpy(x.cpu().numpy() * 2),
    "to Python": lambda x: torch.tensor([x.sum().item(), float(x.max()), *x[0].tolist(), int((x > 1).sum())]),
    "a decision": lambda x: x if bool((x > 0).any()) else -x,
    "sorted": lambda x: x.sort(1, descending=True).values.cumsum(1),
    "linear algebra": lambda x: torch.linalg.svd(x).S,
    "transposed and one-hot": lambda x: x.t() @ F.one_hot(torch.arange(4, device=x.device) % 2, 2).float(),
    "resized": lambda x: F.interpolate(x[None, None], scale_factor=2.0, mode="bilinear"),
    "differentiated": gradient,
    "a network trained": trained,
    "a network copied": lambda x: copy.deepcopy(nn.Linear(3, 2, bias=False).to(x.device)).weight.new_ones(2),
    "without autocast": lambda x: torch.autocast(x.device.type, enabled=False)(torch.neg)(x),
}
REFUSED: dict[str, Program] = {
    "a new tensor here": lambda x: x + torch.ones(3),
    "numbers here": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    "stacked": lambda x: torch.stack([x, torch.ones(4, 3)]),
    "multiplied": lambda x: x @ torch.ones(3, 2),
    "gathered by the host": lambda x: x.gather(0, torch.zeros(1, 3, dtype=torch.int64)),
    "the host indexed from there": lambda x: torch.ones(4)[INDEX.to(x.device)],
    "assigned, values of the host": lambda x: assign(x, INDEX, torch.ones(2, 3)),
    "a network left here": lambda x: nn.Linear(3, 2)(x),
    "straight to numpy": lambda x: x.numpy(),
}


@contextmanager
def cuda() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here to compare with")
    yield torch.device("cuda", 0)


BOTH = pytest.mark.parametrize("lend", [simulated_device, cuda], ids=["played", "cuda"])


@BOTH
@pytest.mark.parametrize("program", ALLOWED)
def test_what_is_in_one_place_computes_as_on_the_host(program: str, lend: Callable[[], Iterator[torch.device]]) -> None:
    expected = ALLOWED[program](VALUES.clone())
    with lend() as device:  # type: ignore[attr-defined]
        found = ALLOWED[program](VALUES.to(device, copy=True))
        assert isinstance(found, Tensor)
        assert found.device.type in (device.type, "cpu")
        assert torch.allclose(found.cpu(), expected, rtol=1e-4)  # type: ignore[arg-type]


@BOTH
@pytest.mark.parametrize("program", REFUSED)
def test_what_is_in_two_places_is_refused(program: str, lend: Callable[[], Iterator[torch.device]]) -> None:
    REFUSED[program](VALUES.clone())
    with lend() as device, pytest.raises((RuntimeError, TypeError)):  # type: ignore[attr-defined]
        REFUSED[program](VALUES.to(device, copy=True))


def test_random_numbers_are_those_of_the_host() -> None:
    torch.manual_seed(3)
    expected = torch.rand(5), torch.randperm(7)
    with simulated_device() as device:
        torch.manual_seed(3)
        found = torch.rand(5, device=device), torch.randperm(7, device=device)
        assert all(one.device == device for one in found)
        assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_nothing_of_it_stays_behind() -> None:
    with simulated_device():
        pass
    with pytest.raises(RuntimeError):
        torch.autocast("meta", enabled=False)
    assert type(torch.tensor([1.0], device="meta")) is Tensor


def outcome(selections: Sequence[Selection], place: Workspace) -> dict[str, Any]:
    """Return the pixels that every noise releases, and the accuracy of every cell, by key."""
    found: dict[str, Any] = {}
    plan = plan_cells(cell for one in selections for cell in plan_selection(one, NoNoise(), (NoBreaker(),), [""]).cells)
    for job in plan.jobs:
        done = run_job_once(job, place, lambda step, count, loss: None)
        if isinstance(done, Result):
            found[job.key] = done.test_accuracy
        elif isinstance(job, Protect):
            files = place.store.find(job.key)
            assert files
            found[job.key] = safetensors.torch.load_file(files["released.safetensors"])["images"].tolist()
    return found


def test_a_whole_run_there_gives_the_numbers_of_the_host(tmp_path: Path) -> None:
    noises = [name for name in registry().entries["noise"] if name not in ("file", "sc", "sc-linf")]
    tiny, recipe = read_suite(str(TINY)), "paper:steps=6,batch=32,evaluations=2"
    every = ["none", "adv-linf", "lowpass-median+adv-l1", "jpeg+mixup", "ueraser", "best-of:of=none/jpeg"]
    selections = [
        *select_components(tiny, noises=[*noises, "sc:patch=2", "sc-linf:patch=2"], breakers=["none"], recipe=recipe),
        *select_components(tiny, noises=["none"], breakers=every, recipe=recipe),
    ]
    expected = outcome(selections, Workspace(Store(tmp_path / "here"), torch.device("cpu")))
    assert len(expected) == 2 * (len(noises) + 2) + len(every) - 1
    with simulated_device() as device:
        assert outcome(selections, Workspace(Store(tmp_path / "there"), device)) == expected
