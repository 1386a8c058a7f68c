"""Nothing in a step makes the host wait for the device, without a GPU too: one that waits is idle meanwhile."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conftest import TINY
from uebench import Breaker, Noise, Recipe, Source, Split
from uebench.authoring import fake_device
from uebench.authoring.sample_run import CLASSES, SHAPE, ProbeTarget, SampleSource
from uebench.components.registry import registry
from uebench.compute.cuda_graphs import DISABLE_VARIABLE
from uebench.compute.pixels import Pixels, crop_and_flip
from uebench.compute.train import build_network, train_network
from uebench.jobs.checkpoint import StoredProgress
from uebench.jobs.protect import NoiseContext
from uebench.jobs.run import finish_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import plan_protect
from uebench.planning.suite_file import read_suite
from uebench.storage.store import Store

_aten = torch.ops.aten
READS = {
    _aten._local_scalar_dense.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten._unique2.default,
}
INDEXES = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Waits:
    """The places in the code at which the host waited."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def note(self) -> None:
        stack = traceback.extract_stack()
        own = [one for one in stack if "uebench" in one.filename and one.filename != fake_device.__file__]
        self.places.append(f"{own[-1].filename}:{own[-1].lineno}" if own else "here")


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation on the played device for which a GPU would make the host wait."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.wait(operation, args, kwargs):
            self.waits.note()
        return operation(*args, **kwargs)

    @staticmethod
    def wait(operation: Any, args: Any, kwargs: Any) -> bool:
        def away(one: Any) -> bool:
            return isinstance(one, Tensor) and one.device == fake_device.DEVICE

        if operation in READS:
            return any(map(away, tree_leaves((args, kwargs))))
        if operation in INDEXES:  # a mask is counted, an index from the host is copied
            found = [one for one in args[1] if one is not None]
            return away(args[0]) and any(one.dtype == torch.bool or not away(one) for one in found)
        if operation is _aten._to_copy.default:
            there = torch.device(kwargs.get("device") or args[0].device) == fake_device.DEVICE
            return away(args[0]) != there and not kwargs.get("non_blocking")
        if operation is _aten.copy_.default:
            return away(args[0]) != away(args[1]) and args[1].dim() > 0 and not any(args[2:])
        return False


@contextmanager
def played() -> Iterator[tuple[torch.device, Waits]]:
    waits = Waits()
    with fake_device.simulated_device() as device, Watching(waits):
        yield device, waits


@contextmanager
def cuda() -> Iterator[tuple[torch.device, Waits]]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here to compare with")
    waits = Waits()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(DISABLE_VARIABLE, "1")  # a recording is compared with a call, once
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: waits.note() if "synchroniz" in str(message) else None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield torch.device("cuda", 0), waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


Lend = Callable[[], AbstractContextManager[tuple[torch.device, Waits]]]
BOTH = pytest.mark.parametrize("lend", [played, cuda])


class Counting(StoredProgress):
    """Notes what was waited for in each step."""

    def __init__(self, folder: Path, waits: Waits) -> None:
        super().__init__(Store(folder), "steps", 0, lambda step, count, loss: None, every=math.inf)
        self.waits, self.found = waits, dict[int, list[str]]()

    def steps(self, count: int) -> Iterator[int]:
        for step in super().steps(count):
            before = len(self.waits.places)
            yield step
            self.found[step] = self.waits.places[before:]


RECIPE = Recipe(steps=12, batch=4, evaluations=1)


def trained(
    lend: Lend, folder: Path, augment: Callable[[Tensor], Tensor], *chain: Breaker, recipe: Recipe = RECIPE
) -> dict[int, list[str]]:
    """Return what each of twelve steps, two epochs, waited for."""
    drawn = torch.randint(0, 256, (24, *SHAPE), dtype=torch.uint8)
    with lend() as (device, waits):
        data = Split(drawn.to(device), (torch.arange(24) % CLASSES).to(device))
        network = build_network(ProbeTarget(), SHAPE, CLASSES, "fp32", device, 0)
        progress = Counting(folder, waits)
        options: dict[str, Any] = {"classes": CLASSES, "recipe": recipe, "chain": chain, "augment": augment}
        train_network(network, data, lambda: data, progress=progress, seed=0, **options)
    return progress.found


@BOTH
def test_what_waits_is_seen(lend: Lend) -> None:
    programs: dict[str, Callable[[Tensor], object]] = {
        "a number": lambda x: x.sum().item(),
        "a decision": lambda x: bool((x > 0).any()),
        "to the host": lambda x: x.cpu(),
        "from the host": lambda x: torch.ones(3).to(x.device),
        "numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
        "a mask": lambda x: x[x > 0],
        "an index from the host": lambda x: x[torch.tensor([0, 2])],
        "counted": lambda x: torch.bincount(x.long()),
        "no wait": lambda x: (x + 1).sum() + torch.full((), 2.0, device=x.device) * x[0],
        "nor this": lambda x: torch.ones(3).to(x.device, non_blocking=True) + x[x.long()],
    }
    with lend() as (device, waits):
        x = torch.arange(3.0).to(device)
        seen = []
        for name, program in programs.items():
            before = len(waits.places)
            program(x)
            if len(waits.places) > before:
                seen.append(name)
    assert seen == [name for name in programs if name not in ("no wait", "nor this")]


BREAKERS = [name for name in registry().entries["breaker"] if name != "best-of"]
MORE = ["adv-l1:exact=true", "adv-linf:method=apgd", "adv-linf:method=fgsm", "ueraser:mode=max", "randaugment"]


@BOTH
@pytest.mark.parametrize("text", [*BREAKERS, *MORE])
def test_no_step_of_training_waits(text: str, lend: Lend, tmp_path: Path) -> None:
    breaker = cast(Breaker, registry().build("breaker", text, read_suite(str(TINY)).defaults))
    found = trained(lend, tmp_path, lambda images: crop_and_flip(images, 2), breaker)
    assert found.pop(11), "the network is tested at the last step"
    assert not any(found.values()), found
    assert len(found) == 11


@BOTH
@pytest.mark.parametrize("other", [{"clip": 0.1}, {"optimiser": "adamw"}, {"hidden_lr": 0.1}], ids=str)
def test_no_recipe_waits(other: dict[str, Any], lend: Lend, tmp_path: Path) -> None:
    found = trained(lend, tmp_path, lambda images: images, recipe=replace(RECIPE, **other))
    found.pop(11)
    assert not any(found.values()), found


@BOTH
@pytest.mark.parametrize("name", registry().entries["dataset"])
def test_no_augmentation_waits(name: str, lend: Lend, tmp_path: Path) -> None:
    text = {"folder": "folder:path=pictures,size=16", "imagenet100": "imagenet100:path=pictures,size=16,crop=16"}
    source = cast(Source, registry().build("dataset", text.get(name, name)))
    found = trained(lend, tmp_path, source.augment)
    found.pop(11)
    assert not any(found.values()), found


ROUNDS = {"em-classwise": "its rounds end when the surrogate is good enough"}
EIGEN = {"ntga", "ntga-pgd"}
"""Their eigenvalues are asked, once a step, whether they could be found, inside an operation of torch."""


@BOTH
@pytest.mark.parametrize(
    "name",
    [*(name for name in registry().entries["noise"] if name not in ("file", *ROUNDS)), "tap:shift=4,in_range=true"],
)
def test_no_step_of_a_noise_waits(name: str, lend: Lend, tmp_path: Path) -> None:
    noise = cast(Noise, registry().build("noise", name, read_suite(str(TINY)).defaults))
    data, job = SampleSource().load(Path()), plan_protect(SampleSource(), "", noise, Recipe(steps=3), seed=0)
    with lend() as (device, waits):
        if device.type == "cuda" and name in EIGEN:
            pytest.skip("torch waits for a GPU's eigenvalues")
        images, labels = Pixels(data.train.images.to(device), device), data.train.labels.to(device)
        progress = Counting(tmp_path, waits)
        place = Workspace(progress.store, device, every=math.inf)
        context = NoiseContext(job, data, place, progress, partial(finish_job, workspace=place, report=progress.report))
        noise.make(cast(Tensor, images if noise.streams else images[:]), labels, context)
    assert not any(progress.found.values()), progress.found
