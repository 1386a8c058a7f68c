"""Recorded work gives the numbers of the calls it replaces, and where it could not it is not used."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uebench import Recipe, Target
from uebench.compute import attacks, cuda_graphs
from uebench.compute.optimisation import Training
from uebench.compute.train import build_network
from uebench_plugins.targets.resnet import ResNet8

HOST, RADIUS = torch.device("cpu"), 4 / 255


class Tape:
    """Stands for a GPU's graphs: runs the work on the held tensors again, into the tensors that it returned."""

    def __init__(self, spoil: float = 1.0) -> None:
        self.spoil, self.replays = spoil, Counter[str]()

    def record(self, work: Any, network: nn.Module, inputs: tuple[Tensor, ...]) -> cuda_graphs.Recording:
        held, owner = tuple(one.clone() for one in inputs), weakref.ref(network)
        for _ in range(cuda_graphs.WARM_UP):
            work(network, *held)
        results = work(network, *held)

        def again() -> None:
            self.replays[work.__name__] += 1
            for one, fresh in zip(results, work(owner(), *held), strict=True):
                if one is not None:
                    one.copy_(fresh * self.spoil)

        return cuda_graphs.Recording(held, results, again)


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    found = Tape()
    monkeypatch.setattr(cuda_graphs, "can_record", lambda network: True)
    monkeypatch.setattr(cuda_graphs, "record_graph", found.record)
    return found


class Forgetful(Target):
    """Draws random numbers at every call in training."""

    name = "forgetful"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        convolutions = nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * shape[1] * shape[2], classes))


class Waiting(Target):
    """Has its network wait for the device, which no graph can hold."""

    name = "waiting"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        class Scale(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images * (1 + images.mean()).cpu().to(images.device)

        return nn.Sequential(Scale(), Forgetful().build(shape, classes))


TARGETS = pytest.mark.parametrize("target", [ResNet8(), Forgetful()], ids=lambda one: one.name)


def made(seed: int = 0) -> nn.Module:
    return build_network(ResNet8(), (3, 16, 16), 4, "fp32", HOST, seed)


def batch(step: int, count: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.rand(count, 3, 16, 16, generator=draw), torch.randint(0, 4, (count,), generator=draw)


def trained(steps: int, target: Target, device: torch.device = HOST) -> dict[str, Tensor]:
    """Return the state of a network after adversarial training, and what is drawn after the last step."""
    network = build_network(target, (3, 16, 16), 4, "fp32", device, 0)
    training = Training(network, Recipe(steps=steps, batch=8, schedule="constant", lr=0.02), 8, 0)
    for step in range(steps):
        torch.manual_seed(step)
        images, labels = (one.to(device) for one in batch(step))
        attacked = attacks.pgd(network, images, labels, radius=RADIUS, steps=3, step=RADIUS / 2)
        training.step(step, attacked, labels)
    return {**network.state_dict(), "drawn": torch.rand(4, device=device)}


@TARGETS
@pytest.mark.parametrize("steps", [3, 8])
def test_adversarial_training_by_replays_gives_the_same_bits(
    steps: int, target: Target, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = trained(steps, target)
    assert tape.replays == {"_image_gradient": 3 * steps - 2, "weight_gradients": steps - 2, "_fuse_pairs": steps - 2}
    monkeypatch.setattr(cuda_graphs, "can_record", lambda network: False)
    called = trained(steps, target)
    assert all(torch.equal(one, called[name]) for name, one in replayed.items())


def test_another_shape_or_mode_is_another_recording_and_a_rare_one_is_none(tape: Tape) -> None:
    network = made()
    for count, calls in ((8, 4), (6, 3), (5, 2)):
        with attacks.frozen(network):
            for step in range(calls):
                attacks.image_gradient(network, *batch(step, count))
    assert tape.replays["_image_gradient"] == 2 + 1
    images, labels = batch(0)
    with attacks.frozen(network):
        before = attacks.image_gradient(network, images, labels)[1]
    network.eval()
    assert not torch.equal(before, torch.zeros_like(before))
    replays = tape.replays["_image_gradient"]
    attacks.image_gradient(network, images, labels)  # weights that learn: not what was recorded
    assert tape.replays["_image_gradient"] == replays


def test_a_replay_reads_the_weights_of_now_and_a_replaced_weight_is_seen(tape: Tape) -> None:
    network, other = made(), made(1)
    images, labels = batch(0)

    def slope() -> Tensor:
        with attacks.frozen(network):
            return attacks.image_gradient(network, images, labels)[1]

    for _ in range(4):
        first = slope()
    network.load_state_dict(other.state_dict())
    with attacks.frozen(other):
        expected = attacks.image_gradient(other, images, labels)[1]
    assert torch.equal(slope(), expected)
    assert not torch.equal(first, expected)
    with torch.no_grad():
        last = [one for one in network.modules() if isinstance(one, nn.Linear)][-1]
        last.weight = nn.Parameter(torch.zeros_like(last.weight))
    assert torch.equal(slope(), torch.zeros_like(images))


def test_results_are_the_callers_own(tape: Tape) -> None:
    network = made()
    with attacks.frozen(network):
        found = [attacks.image_gradient(network, *batch(step))[1] for step in range(5)]
        again = [attacks._image_gradient(network, *batch(step))[1] for step in range(5)]
    assert all(torch.equal(*both) for both in zip(found, again, strict=True))


@pytest.mark.parametrize("how", ["refused", "other numbers", "no numbers"])
def test_where_recording_fails_work_is_called_and_leaves_what_a_call_leaves(
    how: str, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    if how == "refused":
        monkeypatch.setattr(cuda_graphs, "record_graph", refuse)
    tape.spoil = {"other numbers": 1.01, "no numbers": float("nan")}.get(how, 1.0)
    text = "operation not permitted" if how == "refused" else "other numbers than the direct call"
    with pytest.warns(RuntimeWarning, match=text) as told:
        found = trained(8, ResNet8())
    assert len(told) == (3 if how == "refused" else 2), "once for each kind of work that gives numbers"
    monkeypatch.setattr(cuda_graphs, "can_record", lambda network: False)
    called = trained(8, ResNet8())
    assert all(torch.equal(one, called[name]) for name, one in found.items())


def test_a_watched_network_and_one_that_nobody_admitted_are_called(tape: Tape) -> None:
    network, stranger = made(), ResNet8().build((3, 16, 16), 4)
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(5):
        for one in (network, stranger):
            with attacks.frozen(one):
                attacks.image_gradient(one, *batch(0))
    assert len(calls) == 5
    assert not tape.replays


def test_recordings_are_few_and_go_with_their_network(tape: Tape) -> None:
    network = made()
    with attacks.frozen(network):
        for count in range(1, cuda_graphs.MOST_RECORDINGS + 4):
            for _ in range(3):
                attacks.image_gradient(network, *batch(0, count))
    kept = [one for one in cuda_graphs._recordings[network].values() if isinstance(one, cuda_graphs.Recording)]
    assert len(kept) == cuda_graphs.MOST_RECORDINGS
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_a_network_is_gone_with_its_last_user_though_nobody_looks_for_garbage(tape: Tape) -> None:
    """Else what a GPU holds for a finished job, weights and recordings, would stay for the next ones to find."""
    gc.collect()
    gc.disable()
    try:
        network = made()
        training = Training(network, Recipe(steps=4, batch=8, clip=1.0), 8, 0)
        for step in range(4):
            images, labels = batch(step)
            training.step(step, attacks.pgd(network, images, labels, radius=RADIUS, steps=2, step=RADIUS), labels)
        assert tape.replays["weight_gradients"]
        gone = (
            weakref.ref(network),
            weakref.ref(training.optimiser.state[next(network.parameters())]["momentum_buffer"]),
        )
        del network, training
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


def test_what_is_nothing_but_rounding_need_not_agree() -> None:
    large, rest = torch.full((100,), 2.0), torch.full((3,), 1e-7)
    same = large, rest
    assert cuda_graphs._results_agree((*same, None), (large, -rest, None), (*same, None))
    assert not cuda_graphs._results_agree(same, (large * 1.01, rest), same)
    assert not cuda_graphs._results_agree(same, (large, large[:3] * 0.01), same)
    assert not cuda_graphs._results_agree(same, (large, rest * float("nan")), same)
    assert not cuda_graphs._results_agree(same, (large, None), same)


def test_a_replay_may_differ_by_twice_what_one_rounding_error_in_the_images_does() -> None:
    large = torch.full((100,), 2.0)
    assert cuda_graphs._results_agree((large,), (large * 1.01,), (large * 1.006,))
    assert not cuda_graphs._results_agree((large,), (large * 1.01,), (large * 1.004,))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), cuda_graphs.RecordingError("broke off")])
def test_lack_of_memory_and_a_broken_recording_end_the_job(
    error: RuntimeError, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cuda_graphs, "record_graph", fail)
    with pytest.raises(type(error)):
        trained(8, ResNet8())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("not permitted when capturing")])
def test_a_capture_that_breaks_off_is_told_from_one_that_was_refused_before(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def work(network: nn.Module, images: Tensor) -> tuple[Tensor]:
        calls.append(1)
        if len(calls) > cuda_graphs.WARM_UP:
            raise error
        return (images,)

    simulate_cuda(monkeypatch, free=10)
    with pytest.raises(cuda_graphs.RecordingError, match="broke off") as told:
        cuda_graphs.record_graph(work, nn.Linear(1, 1), (torch.ones(1),))
    assert told.value.__cause__ is error
    assert not isinstance(told.value, torch.OutOfMemoryError), "else the process would be used again"


def test_nothing_is_captured_where_memory_could_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_cuda(monkeypatch, free=2)
    with pytest.raises(RuntimeError, match="memory") as told:
        cuda_graphs.record_graph(lambda *_: pytest.fail("called"), nn.Linear(1, 1), (torch.ones(1),))
    assert not isinstance(told.value, cuda_graphs.RecordingError)


def simulate_cuda(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let what `record_graph` asks of CUDA work without a GPU; a process has used 3 bytes at most, `free` are left."""

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    for name, value in {
        "current_device": lambda: 0,
        "mem_get_info": lambda device: (free, 100),
        "max_memory_allocated": lambda device: 3,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
        "CUDAGraph": object,
        "graph": lambda graph, pool: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_graphs, "_shared_resources", lambda device: (None, Stream(), None))


def test_nothing_is_recorded_on_a_processor_or_where_it_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()
    assert not cuda_graphs.can_record(network)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert cuda_graphs.can_record(network)
    monkeypatch.setenv(cuda_graphs.DISABLE_VARIABLE, "1")
    assert not cuda_graphs.can_record(network)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that records")
@TARGETS
def test_on_a_gpu_replays_give_the_numbers_of_calls(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    replayed = trained(8, target, device)
    monkeypatch.setenv(cuda_graphs.DISABLE_VARIABLE, "1")
    called = trained(8, target, device)
    for name, one in replayed.items():
        assert torch.allclose(one.float(), called[name].float(), rtol=1e-2, atol=1e-3), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that records")
@pytest.mark.filterwarnings("error:not recorded")
def test_on_a_gpu_work_is_recorded_again_when_every_recording_is_gone() -> None:
    for _ in range(3):
        trained(4, Forgetful(), torch.device("cuda:0"))
        gc.collect()
        torch.cuda.empty_cache()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that records")
def test_on_a_gpu_work_that_waits_is_called() -> None:
    with pytest.warns(RuntimeWarning, match="synchroniz"):
        found = trained(8, Waiting(), torch.device("cuda:0"))
    assert all(bool(one.isfinite().all()) for one in found.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that records")
@pytest.mark.filterwarnings("error:not recorded")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@TARGETS
def test_on_a_gpu_work_is_recorded(target: Target, precision: str) -> None:
    device = torch.device("cuda:0")
    network = build_network(target, (3, 16, 16), 4, precision, device, 0)
    training = Training(network, Recipe(steps=4, batch=8), 8, 0)
    for step in range(4):
        images, labels = (one.to(device) for one in batch(step))
        training.step(step, attacks.pgd(network, images, labels, radius=RADIUS, steps=3, step=RADIUS / 2), labels)
    kinds = [
        key[0].__name__
        for key, one in cuda_graphs._recordings[network].items()
        if isinstance(one, cuda_graphs.Recording)
    ]  # type: ignore[index]
    assert sorted(kinds) == ["_fuse_pairs", "_image_gradient", "weight_gradients"]
