"""Work on a network with batches of one shape, recorded as a CUDA graph and replayed: its kernels launch as one.

A small network's kernels take less time than launching them one by one. A replay runs the kernels that were recorded,
so it changes no number; where work cannot be recorded it is called as it is.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

DISABLE_VARIABLE = "UEBENCH_NO_GRAPHS"
"""The environment variable that, when it is set, keeps everything from being recorded."""
CALLS_BEFORE = 2
"""Calls of one kind that are not recorded: recording costs several, and the last batch of a sweep comes once."""
WARM_UP = 3
"""Calls before a recording, in which libraries choose their kernels and take their memory."""
MOST_RECORDINGS = 8
"""Recordings that a network keeps."""
AGREEMENT = 1e-3
"""The difference in L2 up to which a recording agrees with the call that it is of, as a share of each result: some
kernels add in any order."""
NEGLIGIBLE = 1e-3
"""The share of the largest result under which one counts as this: the gradient of a bias ahead of batch norm is nothing
but rounding."""

WorkResults = tuple["torch.Tensor | None", ...]
RecordableWork = Callable[..., WorkResults]


@dataclass(frozen=True)
class Recording:
    """The tensors that a recorded call reads and writes, and the way to run it again."""

    inputs: tuple[torch.Tensor, ...]
    results: WorkResults
    again: Callable[[], object]

    def __call__(self, *inputs: torch.Tensor) -> WorkResults:
        """Run it on other inputs; returns results that the next run leaves alone."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.again()
        return tuple(None if one is None else one.clone() for one in self.results)


_known: weakref.WeakKeyDictionary[torch.nn.Module, dict[Hashable, Recording | int | None]] = weakref.WeakKeyDictionary()


def allow_recording(network: torch.nn.Module) -> None:
    """Let work on a network be recorded: one whose forward pass is the same for all values and all calls."""
    _known[network] = {}


def run_recorded(work: RecordableWork, network: torch.nn.Module, *inputs: torch.Tensor) -> WorkResults:
    """Return `work(network, *inputs)`, replayed where the network was admitted and its device records.

    Work may change buffers of the network, and no other tensor but those it returns and those that are its own.
    """
    known = _known.get(network)
    if known is None or not can_record(network) or _watched(network):
        return work(network, *inputs)
    key = (work, *((one.shape, one.dtype, one.stride()) for one in inputs), *_state(network))
    found = known.get(key, 0)
    if isinstance(found, Recording):
        return found(*inputs)
    if found is None or found < CALLS_BEFORE:
        known[key] = None if found is None else found + 1
        return work(network, *inputs)
    while sum(isinstance(one, Recording) for one in known.values()) >= MOST_RECORDINGS:
        known.pop(next(old for old, one in known.items() if isinstance(one, Recording)))
    known[key], results = _try(work, network, inputs)
    return results


def can_record(network: torch.nn.Module) -> bool:
    """Tell whether work can be recorded where a network is."""
    return next(network.parameters()).is_cuda and DISABLE_VARIABLE not in os.environ


def _watched(network: torch.nn.Module) -> bool:
    """Tell whether somebody waits for a module's calls, which a replay does not make."""
    return any(one._forward_hooks or one._forward_pre_hooks or one._backward_hooks for one in network.modules())


def _state(network: torch.nn.Module) -> Iterator[Hashable]:
    """Yield what a recording holds for: where the tensors of a network lie, which learn, and its modules' modes."""
    for module in network.modules():
        yield module.training
        for one in (*module._parameters.values(), *module._buffers.values()):
            yield None if one is None else (one.data_ptr(), one.dtype, one.requires_grad)


def _try(
    work: RecordableWork, network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[Recording | None, WorkResults]:
    """Record work, then call it, and return the recording, None where it differs from the call, and the results.

    Buffers and random generators are left as by the call alone.
    """
    buffers = list(network.buffers())
    before = [one.clone() for one in buffers]
    found: Recording | None = None
    replayed: WorkResults = ()
    reason = "a replay gives other numbers than the call"
    try:
        with _unmoved(network):
            found = record_graph(work, network, inputs)
        _restore(buffers, before)
        with _unmoved(network):
            replayed = (*found(*inputs), *(one.clone() for one in buffers))
    except RuntimeError as error:
        reason, found = str(error).strip().partition("\n")[0], None
    _restore(buffers, before)
    called = work(network, *inputs)
    if found and not _agree((*called, *buffers), replayed):
        found = None
    if not found:
        warnings.warn(f"not recorded as a CUDA graph, so slower: {reason}", RuntimeWarning, stacklevel=3)
    return found, called


def _unmoved(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Return a context that leaves the default random generators as they were, so that dropout draws the same again."""
    device = next(network.parameters()).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _restore(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for one, value in zip(tensors, values, strict=True):
            one.copy_(value)


def _agree(some: WorkResults, others: WorkResults) -> bool:
    least = NEGLIGIBLE * max((float(one.double().norm()) for one in some if one is not None), default=0.0)

    def close(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
        if one is None or other is None:
            return one is other
        difference = float((one.double() - other.double()).norm())
        return difference <= AGREEMENT * max(float(one.double().norm()), least)  # not so where it is no number

    return all(close(*both) for both in zip(some, others, strict=True))


@lru_cache
def _shared(device: int) -> tuple[Any, torch.cuda.Stream, torch.cuda.CUDAGraph]:
    """Return what all recordings of a device share: the memory, the stream of their warm-ups, and an empty graph.

    What one recording reads or leaves is outside the others'. The graph is there to be kept: memory whose last graph is
    gone cannot be recorded into again. One stream, as libraries keep memory for each that they have seen.
    """
    pool, graph = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is empty
        with torch.cuda.graph(graph, pool=pool):
            pass
    return pool, torch.cuda.Stream(), graph  # type: ignore[no-untyped-call]


def record_graph(work: RecordableWork, network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Recording:
    """Record a call as a CUDA graph; raises `RuntimeError` where the work waits for the device, or takes no graph.

    What waits is found beforehand: a recording that breaks off can leave allocator and random generators unusable.
    """
    held = tuple(one.detach().clone() for one in inputs)
    pool, aside, _ = _shared(torch.cuda.current_device())
    aside.wait_stream(torch.cuda.current_stream())
    try:
        with _waiting_refused(), torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work(network, *held)
    finally:
        torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        results = work(network, *held)
    return Recording(held, results, graph.replay)


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Have whatever makes the host wait for the device raise `RuntimeError`, as far as torch knows of it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
